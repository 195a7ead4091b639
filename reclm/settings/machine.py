"""What the settings say about the machine, for torch and the numerical libraries: device, number type, threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reclm.errors import ModelError
from reclm.settings.operations import RuntimeSettings

if TYPE_CHECKING:
    import torch


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
    """Return bfloat16 on CUDA when `runtime.dtype` says so, float32 otherwise."""
    import torch

    half = runtime.dtype == "bfloat16" and device_of(runtime) != "cpu"
    return torch.bfloat16 if half else torch.float32
