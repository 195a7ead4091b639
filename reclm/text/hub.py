"""Fetch pretrained language models: a Hub id comes in, a folder of the local cache goes out."""

from __future__ import annotations

from pathlib import Path

from reclm.errors import ModelError
from reclm.text.gguf import SMOLLM2

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""The files of a model that are read. None of them can hold code."""


def hub_snapshot(setting: str, name: str, revision: str) -> Path:
    """Return the folder of the Hub model `name`, which the settings key `setting` gives; its own name is the commit.

    It is downloaded where the local cache lacks it. `revision` empty: the default branch. Raises ModelError when it
    cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(MODEL_FILES)))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{setting} = {name!r} is neither a folder nor a Hub id that can be fetched ({error}); give {SMOLLM2!r}, a "
            ".gguf file, a folder, or the id of a causal language model"
        ) from None
