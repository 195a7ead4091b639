"""Make the base model, which is tuned later.

In: settings and a corpus. Out: an artifact with a language model, or the record of a pretrained one. `tiny` is trained
from scratch on a corpus of rendered documents and saved in the artifact's `model/`. A GGUF file (`smollm2` is one) is
dequantised, and its artifact `weights` is the parent. Any other name is a Hub id or a folder of a causal language
model; the artifact then only records which: its commit or a hash of its content. RecLM (arXiv 2412.19302) starts from a
7B model; the small one makes a first run possible without a download.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.llm.models.loading import base_model_name, require_weights
from reclm.llm.models.processes import is_main_process, write_in_main_process
from reclm.llm.models.tiny import RECIPE, SIZES, TINY, step_size, token_budget, train_model, train_tokenizer
from reclm.llm.models.training_cutoff import CUTOFF_KEY
from reclm.llm.models.versions import find_reusable
from reclm.progress import quiet, step
from reclm.settings.machine import device_of, use_threads
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, Draft
from reclm.storage.files import content_of_folder, write_rows
from reclm.storage.schemas import LANGUAGE_MODEL_CURVE
from reclm.text import gguf
from reclm.text.hub import MODEL_FILES, hub_snapshot

if TYPE_CHECKING:
    from reclm.llm.prompts.corpus import Corpus
    from reclm.settings.tree import Settings


KIND = "base"


def write_base(settings: Settings, corpus: Callable[[], Corpus]) -> Artifact:
    """Train or pin the base model that the settings name and return its artifact; reuse one that exists.

    `corpus` makes documents rendered in the template of `tiny` (`reclm.llm.prompts.corpus.corpus`); it is called for
    `tiny` only, and the documents' content is part of the version. Raises ModelError when a model cannot be found or
    has no safetensors weights.
    """
    llm = settings.llm
    documents = corpus() if llm.base_model == TINY else None
    parameters = _reference(settings) if documents is None else _tiny_parameters(settings, documents)
    is_gguf = llm.base_model != TINY and gguf.gguf_file(llm.base_model) is not None
    parents = {gguf.KIND: gguf.weights_version(llm.base_model, llm.sha256)} if is_gguf else {}
    if found := find_reusable(settings, KIND, parameters, parents):
        return found
    with write_in_main_process(settings.paths, KIND, parameters, parents) as draft:
        if documents is not None and is_main_process():
            _train_tiny(settings, documents, parameters, draft)
        elif is_gguf and is_main_process():
            gguf.weights(settings, llm.base_model, llm.sha256)
    return artifacts.load(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))


def _tiny_parameters(settings: Settings, documents: Corpus) -> dict[str, Any]:
    from reclm.text.encoder import model_name

    digest = hashlib.sha256(len(documents.background).to_bytes(8, "big"))
    for document in chain(documents.background, documents.dialogues):
        data = document.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    llm = settings.llm
    return {
        "base_model": TINY,
        "recipe": RECIPE,
        "size": llm.tiny_size,
        "vocabulary": llm.tiny_vocabulary,
        "encoder": model_name(settings.embedding),
        "tokens": token_budget(len(documents.dialogues), llm.tiny_tokens),
        "learning_rate": step_size(llm.tiny_learning_rate, SIZES[llm.tiny_size]),
        "seed": settings.seed,
        "device": device_of(settings.runtime).split(":")[0],
        "corpus": digest.hexdigest()[:16],
        CUTOFF_KEY: dict(documents.training_cutoff),
    }


def _train_tiny(settings: Settings, documents: Corpus, parameters: Mapping[str, Any], draft: Draft) -> None:
    from reclm.text.encoder import caching_encoder

    llm, tokens = settings.llm, parameters["tokens"]
    use_threads(settings.runtime)
    all_documents = [*documents.background, *documents.dialogues]
    with step(f"tokenizer over {len(all_documents):,} documents"):
        tokenizer = train_tokenizer(all_documents, llm.tiny_vocabulary)
    with step(f"tiny {llm.tiny_size} model from scratch, {tokens:,} tokens"), quiet():
        model, curve = train_model(
            tokenizer,
            documents.dialogues,
            SIZES[llm.tiny_size],
            background=documents.background,
            embed=caching_encoder(settings),
            tokens=tokens,
            learning_rate=parameters["learning_rate"],
            seed=settings.seed,
            device=device_of(settings.runtime),
        )
        model.save_pretrained(draft.path / "model")
        tokenizer.save_pretrained(draft.path / "model")
    rows = [{"step": at, "metric": "loss", "value": value} for at, value in curve]
    write_rows(draft.path / "curve.parquet", rows, LANGUAGE_MODEL_CURVE)
    draft.metrics.update(
        background=len(documents.background),
        dialogues=len(documents.dialogues),
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        loss=curve[-1][1],
    )


def _reference(settings: Settings) -> dict[str, Any]:
    """The parameters that pin a model from elsewhere: the commit of a Hub id, or a hash of a folder's content."""
    name = settings.llm.base_model
    if gguf.gguf_file(name) is not None:  # its weights are a parent
        return {"base_model": base_model_name(settings)}
    folder = Path(name)
    if folder.is_dir():
        require_weights(folder)
        return {
            "base_model": base_model_name(settings),
            "revision": "",
            "content": content_of_folder(folder, MODEL_FILES),
        }
    snapshot = hub_snapshot("llm.base_model", name, settings.llm.revision)
    require_weights(snapshot)
    return {"base_model": name, "revision": snapshot.name, "content": snapshot.name}
