"""Load language models.

In: a folder, Hub id or artifact. Out: a tokenizer or a model ready for use. Loading never runs a model's own code and
reads weights from safetensors files only (Hugging Face transformers).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from reclm.errors import ModelError
from reclm.llm.models.tiny import TINY
from reclm.llm.prompts.templates import PLAIN_TEMPLATE, end_token
from reclm.progress import quiet
from reclm.settings.machine import device_of, dtype_of, use_threads
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import content_of_folder, read_json, write_json
from reclm.text import gguf
from reclm.text.hub import MODEL_FILES, hub_snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.settings.tree import Settings


def base_model_name(settings: Settings) -> str:
    """Return what manifests call the base model: `tiny`, `smollm2`, a Hub id, or a folder's or a GGUF file's name
    without the path to it."""
    name = settings.llm.base_model
    if name.lower().endswith(gguf.SUFFIX):
        return Path(name).name
    return Path(name).resolve().name if Path(name).is_dir() else name


def without_base_path(adapter: Path) -> None:
    """Take the base model's path out of what PEFT wrote about an adapter: the manifest's parents name the base."""
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", config | {"base_model_name_or_path": None})
    (adapter / "README.md").unlink(missing_ok=True)


def require_weights(folder: Path) -> None:
    """Raise ModelError when a folder has no safetensors weights."""
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors weights; other formats can run code and are not read")


def model_location(settings: Settings, artifact: Artifact) -> str:
    """Return the folder to load an artifact's model from: its own `model/`, or the one that a base artifact names.

    Raises ModelError when a base model was recorded from a folder that `llm.base_model` no longer names or that has
    changed since.
    """
    recorded = artifact.manifest["parameters"]
    name = recorded.get("base_model", TINY)
    if artifact.kind != "base" or name == TINY:
        return str(artifact.path / "model")
    if weights := artifact.manifest["parents"].get(gguf.KIND):
        return str(artifacts.load(settings.paths, gguf.KIND, weights).path / "model")
    if recorded["revision"]:
        return str(hub_snapshot("llm.base_model", name, recorded["revision"]))
    folder = Path(settings.llm.base_model)
    if not folder.is_dir() or content_of_folder(folder, MODEL_FILES) != recorded["content"]:
        raise ModelError(
            f"base model {artifact.version} was recorded from a folder called {name!r}, and llm.base_model = "
            f"{settings.llm.base_model!r} is not that folder or has changed; name it, or run `reclm tune` again"
        )
    return str(folder.resolve())


def load_tokenizer(
    folder_or_name: str | Path, *, padding_side: Literal["left", "right"] = "left"
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and complete it for dialogues.

    It gets a chat template if it has none; its end token is the one that closes an answer, and its padding token is
    another one. Raises ModelError when it cannot be read or has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder_or_name), padding_side=padding_side, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"the tokenizer of {folder_or_name} cannot be read: {error}") from None
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {folder_or_name} has no tokenizer.json; convert it with transformers first")
    if tokenizer.chat_template is None:
        begins = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]  # as its model was trained
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
        if tokenizer.eos_token is None:
            raise ModelError(f"the tokenizer of {folder_or_name} names no end token (eos_token); name one there")
    closing = end_token(tokenizer)
    if closing is not None and closing != tokenizer.eos_token:
        tokenizer.eos_token = closing
    if tokenizer.eos_token is None:
        raise ModelError(f"neither the tokenizer of {folder_or_name} nor its chat template names an end token")
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer)
    return tokenizer


def _spare_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a special token that nothing else uses, for padding; add one when there is none."""
    used = {tokenizer.eos_token, tokenizer.bos_token}
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    free = [token for token in special if token not in used and token not in str(tokenizer.chat_template)]
    for part in ("pad", "endoftext", "reserved", "unused", "unk"):
        for token in free:
            if part in token.lower():
                return token
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return "<|pad|>"


def load_model(
    folder_or_name: str | Path,
    settings: Settings,
    *,
    task: Literal["causal", "score"] = "causal",
    load_in: Literal["full", "8bit", "4bit"] | None = None,
) -> PreTrainedModel:
    """Load a model on the settings' device, in evaluation mode; the task `score` gives it a head of one output.

    Weights are loaded as `llm.load_in` (or `load_in`) says, in `runtime.dtype` where the device has it.
    Padding and end tokens are those of `load_tokenizer`; the model's own sampling defaults are dropped. Raises
    ModelError when it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

    use_threads(settings.runtime)
    device = device_of(settings.runtime)
    quantized = _quantization(load_in or settings.llm.load_in, device)
    tokenizer = load_tokenizer(folder_or_name)
    kind = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    options: dict[str, Any] = {"num_labels": 1} if task == "score" else {}
    if quantized is not None:
        options |= {"quantization_config": quantized, "device_map": {"": device}}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # weights that a checkpoint lacks (a head, a padding row) are drawn
        try:
            model: Any = kind.from_pretrained(
                str(folder_or_name),
                dtype=dtype_of(settings.runtime),
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"the model in {folder_or_name} cannot be loaded: {error}") from None
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    if task == "causal":
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    if quantized is None:
        model.to(device)
    model.eval()
    return cast("PreTrainedModel", model)


def _quantization(load_in: str, device: str) -> Any | None:
    if load_in == "full":
        return None
    from importlib.util import find_spec

    if device == "cpu" or find_spec("bitsandbytes") is None:
        raise ModelError(
            f"llm.load_in = {load_in!r} needs a CUDA device and the package bitsandbytes; set it to 'full', or "
            "pip install bitsandbytes on a machine with CUDA"
        )
    import torch
    from transformers import BitsAndBytesConfig

    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
