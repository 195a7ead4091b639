"""What the settings say about the machine, for torch and the numerical libraries: device, number type, threads."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.errors import ModelError
from reclm.settings.operations import RuntimeSettings

if TYPE_CHECKING:
    import torch


BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}
"""Flags of a processor that computes in bfloat16: x86's two, and ARM's."""


def bound_libraries(runtime: RuntimeSettings) -> None:
    """Limit OpenMP, OpenBLAS and MKL to `runtime.threads` threads. Call it before numpy and torch are imported."""
    if runtime.threads:
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", str(runtime.threads))


def device_of(runtime: RuntimeSettings) -> str:
    """Return the device for torch: `cpu`, `cuda`, or this process's own `cuda:N` under `accelerate launch`.

    Raises ModelError when `runtime.device` is `cuda` and there is none.
    """
    import torch

    if runtime.device == "cpu" or (runtime.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ModelError("runtime.device = 'cuda', and torch sees no CUDA device; set it to 'auto' or 'cpu'")
    rank = os.environ.get("LOCAL_RANK")
    return "cuda" if rank is None else f"cuda:{rank}"


def use_threads(runtime: RuntimeSettings) -> None:
    """Limit torch to `runtime.threads` threads; 0 leaves it as it is."""
    import torch

    if runtime.threads:
        torch.set_num_threads(runtime.threads)


def dtype_of(runtime: RuntimeSettings) -> torch.dtype:
    """Return bfloat16 when `runtime.dtype` says so and the device computes in it, float32 otherwise."""
    import torch

    half = runtime.dtype == "bfloat16" and (device_of(runtime) != "cpu" or _has_bfloat16())
    return torch.bfloat16 if half else torch.float32


@cache
def _has_bfloat16(described: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor has instructions for bfloat16: without them it is slower than float32."""
    try:
        words = set(described.read_text().split())
    except OSError:
        return False
    return bool(words & BFLOAT16)
