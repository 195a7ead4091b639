"""Name the versions of tuned models.

In: settings. Out: the parameters they share, or a finished artifact to reuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reclm.progress import detail
from reclm.settings.machine import device_of, dtype_of
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def shared_parameters(settings: Settings) -> dict[str, Any]:
    """Return the parameters of every tuned model, besides its own section of the settings and its dialogues."""
    from reclm.text.encoder import model_name

    return {
        "llm": settings.llm.model_dump(
            mode="json",
            exclude={
                "preset",
                "base_model",
                "sha256",
                "tiny_tokens",
                "tiny_learning_rate",
                "tiny_vocabulary",
                "practices",
            },
        ),
        "dtype": str(dtype_of(settings.runtime)).removeprefix("torch."),
        "device": device_of(settings.runtime).split(":")[0],
        "encoder": model_name(settings.embedding),
        "seed": settings.seed,
    }


def find_reusable(
    settings: Settings, kind: str, parameters: Mapping[str, Any], parents: Mapping[str, str]
) -> Artifact | None:
    """Return the finished artifact of these parameters and parents; None when there is none."""
    found = artifacts.find(settings.paths, kind, artifacts.version_of(kind, parameters, parents))
    if found is not None:
        detail(f"{kind} {found.version} is reused: nothing it depends on has changed")
    return found
