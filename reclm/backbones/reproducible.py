"""Make torch give the same result for the same seed, on a given number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from reclm.settings.operations import RuntimeSettings


@contextmanager
def reproducible(settings: RuntimeSettings, seed: int) -> Iterator[None]:
    """Seed torch, set its threads and ask for deterministic algorithms in the block; restore everything after it."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    cuda = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        # what use_deterministic_algorithms does, without importing torch's compiler, which nothing here uses
        torch.set_deterministic_debug_mode("warn" if cuda else "error")
        # torch would fill new memory before use: nothing here reads it unfilled, and it takes a quarter of a step
        fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(mode)
