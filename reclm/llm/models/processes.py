"""Several processes and one artifact: under `accelerate launch` every process trains, the main one writes the artifact.

A draft comes in as for `reclm.storage.artifacts.writing`; one finished artifact goes out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reclm.storage import artifacts
from reclm.storage.artifacts import Draft
from reclm.storage.workspace import Workspace


def is_main_process() -> bool:
    """Tell whether this process writes: the only process, or the first that `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def write_in_main_process(
    workspace: Workspace,
    kind: str,
    parameters: Mapping[str, Any],
    parents: Mapping[str, str],
    *,
    resumable: bool = False,
) -> Iterator[Draft]:
    """Write an artifact as `artifacts.writing` does, from the main process when there are several.

    Every process enters; the main one's draft becomes the artifact, and all leave together when it is finished.
    """
    if "RANK" not in os.environ:
        with artifacts.writing(workspace, kind, parameters, parents, resumable=resumable) as draft:
            yield draft
        return
    import torch
    from accelerate import PartialState

    without_cuda = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"
    state = PartialState(cpu=without_cuda)  # the first state made in a process decides for later ones
    if state.is_main_process:
        with artifacts.writing(workspace, kind, parameters, parents, resumable=resumable) as draft:
            state.wait_for_everyone()
            yield draft
    else:
        state.wait_for_everyone()
        yield Draft(workspace.artifacts / ".partial" / f"{kind}-{artifacts.version_of(kind, parameters, parents)}")
    state.wait_for_everyone()
