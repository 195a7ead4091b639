"""The base model: settings come in, the language model that everything later is tuned from goes out, as an artifact.

`tiny` is trained from scratch on a corpus of rendered documents and stands in the artifact's `model/`. Any other name is
a Hub id or a folder of a causal language model: the artifact then only pins it, by commit or by content. Loading never
runs a model's own code and reads safetensors alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from reclm.errors import ModelError
from reclm.llm.models.tiny import RECIPE, SIZES, step_size, tokens_for, train_model, train_tokenizer
from reclm.llm.models.training_cutoff import CUTOFF_KEY
from reclm.llm.prompts.messages import Shape
from reclm.llm.prompts.templates import PLAIN_TEMPLATE, end_token
from reclm.progress import quiet, say, step
from reclm.settings.machine import device_of, dtype_of, use_threads
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, Draft
from reclm.storage.files import write_rows
from reclm.storage.schemas import LANGUAGE_MODEL_CURVE
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reclm.llm.prompts.corpus import Corpus
    from reclm.settings.tree import Settings


KIND = "base"
TINY = "tiny"
ENDPOINT_TOKENS = 2048
"""Budget of a prompt to an endpoint: its model reads more than one that is trained here."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def write_base(settings: Settings, corpus: Callable[[], Corpus]) -> Artifact:
    """The base model that the settings name, trained or pinned, or found standing.

    `corpus` makes documents rendered in our template (`reclm.llm.prompts.corpus.corpus`); only `tiny` reads them, and
    their content is part of the version. Raises ModelError when a model cannot be found or has no weights
    that may be read.
    """
    llm = settings.llm
    documents = corpus() if llm.base_model == TINY else None
    parameters = _reference(settings) if documents is None else _tiny_parameters(settings, documents)
    if found := reusable(settings, KIND, parameters, {}):
        return found
    with writing_once(settings.paths, KIND, parameters, {}) as draft:
        if documents is not None and is_first_rank():
            _train_tiny(settings, documents, parameters, draft)
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, {}))


def _tiny_parameters(settings: Settings, documents: Corpus) -> dict[str, Any]:
    from reclm.text.encoder import model_name

    digest = hashlib.sha256(len(documents.words).to_bytes(8, "big"))
    for document in chain(documents.words, documents.lessons):
        data = document.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    llm = settings.llm
    return {
        "base_model": TINY,
        "recipe": RECIPE,
        "size": llm.tiny_size,
        "vocabulary": llm.tiny_vocabulary,
        "encoder": model_name(settings.embedding),
        "tokens": tokens_for(len(documents.lessons), llm.tiny_tokens),
        "learning_rate": step_size(llm.tiny_learning_rate, SIZES[llm.tiny_size]),
        "seed": settings.seed,
        "device": device_of(settings).split(":")[0],
        "corpus": digest.hexdigest()[:16],
        CUTOFF_KEY: dict(documents.knows),
    }


def _train_tiny(settings: Settings, documents: Corpus, parameters: Mapping[str, Any], draft: Draft) -> None:
    from reclm.text.encoder import embedder

    llm, tokens = settings.llm, parameters["tokens"]
    use_threads(settings)
    everything = [*documents.words, *documents.lessons]
    with step(f"tokenizer over {len(everything):,} documents"):
        tokenizer = train_tokenizer(everything, llm.tiny_vocabulary)
    with step(f"tiny {llm.tiny_size} model from scratch, {tokens:,} tokens"), quiet():
        model, curve = train_model(
            tokenizer,
            documents.lessons,
            SIZES[llm.tiny_size],
            words=documents.words,
            meanings=embedder(settings),
            tokens=tokens,
            learning_rate=parameters["learning_rate"],
            seed=settings.seed,
            device=device_of(settings),
        )
        model.save_pretrained(draft.path / "model")
        tokenizer.save_pretrained(draft.path / "model")
    rows = [{"step": at, "metric": "loss", "value": value} for at, value in curve]
    write_rows(draft.path / "curve.parquet", rows, LANGUAGE_MODEL_CURVE)
    draft.metrics.update(
        words=len(documents.words),
        lessons=len(documents.lessons),
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        loss=curve[-1][1],
    )


def _reference(settings: Settings) -> dict[str, Any]:
    """What pins a model from elsewhere: the commit of a Hub id, the content of a folder."""
    name = settings.llm.base_model
    folder = Path(name)
    if folder.is_dir():
        _require_weights(folder)
        return {"base_model": str(folder.resolve()), "revision": "", "content": _content(folder)}
    snapshot = _snapshot(name, settings.llm.revision)
    _require_weights(snapshot)
    return {"base_model": name, "revision": snapshot.name, "content": snapshot.name}


def _snapshot(name: str, revision: str) -> Path:
    """The folder of a Hub model in the local cache, fetched when it is not there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(MODEL_FILES)))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"llm.base_model = {name!r} is neither a folder nor a Hub id that can be fetched ({error}); "
            f"give {TINY!r}, a folder, or the id of a causal language model"
        ) from None


def _require_weights(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors weights; other formats can run code and are not read")


def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def model_location(settings: Settings, artifact: Artifact) -> str:
    """The folder to load an artifact's model from: its own `model/`, or the one that a base artifact pins."""
    name = artifact.manifest["parameters"].get("base_model", TINY)
    if artifact.kind != KIND or name == TINY:
        return str(artifact.path / "model")
    return name if Path(name).is_dir() else str(_snapshot(name, artifact.manifest["parameters"]["revision"]))


def style_of(settings: Settings, *, endpoint: bool = False) -> Literal["compact", "full"]:
    """The wording of prompts: `auto` means compact for `tiny`, full for a model from elsewhere, as an endpoint's is."""
    if settings.llm.style == "auto":
        return "compact" if settings.llm.base_model == TINY and not endpoint else "full"
    return settings.llm.style


def shape_of(settings: Settings, *, endpoint: bool = False) -> Shape:
    """How much is shown, and how; to an `endpoint`'s own model as much as a model from elsewhere can read."""
    llm, style = settings.llm, style_of(settings, endpoint=endpoint)
    least = ENDPOINT_TOKENS if endpoint and style == "full" else 0
    return Shape(style, llm.history, llm.neighbours, llm.neighbour_items, max(least, llm.max_prompt_tokens))


def load_tokenizer(
    folder_or_name: str | Path, *, padding_side: Literal["left", "right"] = "left"
) -> PreTrainedTokenizerBase:
    """A model's tokenizer, made fit for dialogues: it has a chat template, its end token is the one that closes an
    answer, and its padding token is another one. Raises ModelError when it cannot be read or has no end token.
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
        tokenizer.chat_template = PLAIN_TEMPLATE
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
    """A special token that nothing else uses, for padding; a new one when there is none."""
    used = {tokenizer.eos_token, tokenizer.bos_token}
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    free = [token for token in special if token not in used and token not in str(tokenizer.chat_template)]
    for wanted in ("pad", "endoftext", "reserved", "unused", "unk"):
        for token in free:
            if wanted in token.lower():
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
    """A model on the settings' device, in evaluation mode; `score` gives it a head of one number in place of words.

    Weights are `llm.load_in` (or `load_in`), of `runtime.dtype` on CUDA and float32 on the CPU. Its padding and end
    tokens are those of `load_tokenizer`, and nothing that its makers prefer for sampling is kept. Raises ModelError.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

    use_threads(settings)
    device = device_of(settings)
    quantized = _quantization(load_in or settings.llm.load_in, device)
    tokenizer = load_tokenizer(folder_or_name)
    kind = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    options: dict[str, Any] = {"num_labels": 1} if task == "score" else {}
    if quantized is not None:
        options |= {"quantization_config": quantized, "device_map": {"": device}}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # what a checkpoint lacks (a head, a padding row) is drawn
        try:
            model: Any = kind.from_pretrained(
                str(folder_or_name), dtype=dtype_of(settings), use_safetensors=True, trust_remote_code=False, **options
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


def learned_with(settings: Settings) -> dict[str, Any]:
    """What every model tuned from a base depends on besides its own section of the settings and its dialogues."""
    from reclm.text.encoder import model_name

    return {
        "llm": settings.llm.model_dump(
            mode="json", exclude={"tiny_tokens", "tiny_learning_rate", "tiny_vocabulary", "practices"}
        ),
        "dtype": settings.runtime.dtype,
        "device": device_of(settings).split(":")[0],
        "encoder": model_name(settings.embedding),
        "seed": settings.seed,
    }


def reusable(
    settings: Settings, kind: str, parameters: Mapping[str, Any], parents: Mapping[str, str]
) -> Artifact | None:
    """The finished artifact of these parameters and parents, told of when there is one."""
    found = artifacts.find(settings.paths, kind, artifacts.version_of(kind, parameters, parents))
    if found is not None:
        say(f"{kind} {found.version} stands already: used again")
    return found


def is_first_rank() -> bool:
    """True in the one process that writes: the only one, or the first that `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def writing_once(
    workspace: Workspace,
    kind: str,
    parameters: Mapping[str, Any],
    parents: Mapping[str, str],
    *,
    resumable: bool = False,
) -> Iterator[Draft]:
    """`artifacts.writing` under `accelerate launch`: every process enters, the first one's draft becomes the artifact,
    and all leave together once it stands."""
    if "RANK" not in os.environ:
        with artifacts.writing(workspace, kind, parameters, parents, resumable=resumable) as draft:
            yield draft
        return
    import torch
    from accelerate import PartialState

    without_cuda = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"
    state = PartialState(cpu=without_cuda)  # the first one made in a process decides for all
    if state.is_main_process:
        with artifacts.writing(workspace, kind, parameters, parents, resumable=resumable) as draft:
            state.wait_for_everyone()
            yield draft
    else:
        state.wait_for_everyone()
        yield Draft(workspace.artifacts / ".partial" / f"{kind}-{artifacts.version_of(kind, parameters, parents)}")
    state.wait_for_everyone()
