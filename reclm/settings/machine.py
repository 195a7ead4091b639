"""What the settings say about the machine, for torch and the numerical libraries: device, number type, threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reclm.errors import ModelError
from reclm.settings.tree import Settings

if TYPE_CHECKING:
    import torch


def bound_libraries(settings: Settings) -> None:
    """Lets numpy and torch use `runtime.threads` threads: to be called before they are imported, when OpenBLAS and OpenMP look."""
    if settings.runtime.threads:
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", str(settings.runtime.threads))


def device_of(settings: Settings) -> str:
    """`cpu` or `cuda`; one process of several (`accelerate launch`) has its own `cuda:N`."""
    import torch

    wanted = settings.runtime.device
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ModelError("runtime.device = 'cuda', and torch sees no CUDA device; set it to 'auto' or 'cpu'")
    rank = os.environ.get("LOCAL_RANK")
    return "cuda" if rank is None else f"cuda:{rank}"


def use_threads(settings: Settings) -> None:
    import torch

    if settings.runtime.threads:
        torch.set_num_threads(settings.runtime.threads)


def dtype_of(settings: Settings) -> torch.dtype:
    """bfloat16 on CUDA when `runtime.dtype` says so, float32 otherwise."""
    import torch

    half = settings.runtime.dtype == "bfloat16" and device_of(settings) != "cpu"
    return torch.bfloat16 if half else torch.float32
