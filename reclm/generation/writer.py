"""Write profiles with a language model.

In: facts about every user and item. Out: the model's answers.

Turn 1 of each user and item is shortened to the token budget and answered by the engine that the settings name, with
the newest model of the stage that the settings name (RecLM, arXiv 2412.19302, section 3.4). Prompts that the same model
answered for an earlier artifact are not sent again. The prompt of a user without history says `nothing` in place of
items; that of an item without title and categories shows `item` and the id. The model answers such prompts too, and the
profile of a user without history gets a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.dataset import EntityKind, Snapshot
from reclm.errors import ArtifactError, ModelError, WorkspaceError
from reclm.llm.engines.answers import GenerationRow, earlier_answers, generate
from reclm.llm.engines.opening import open_engine
from reclm.llm.lineage import newest_model, preferred
from reclm.llm.models.training_cutoff import within_cutoff
from reclm.llm.prompts.messages import Facts, estimated_tokens
from reclm.llm.prompts.requests import PromptBatch, TokenCount
from reclm.profiles import grammar
from reclm.progress import say
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.llm.teacher.stage import Teacher
    from reclm.settings.tree import Settings


@dataclass(frozen=True)
class Writer:
    """The model that writes profiles, and the parents and parameters that it gives their artifact.

    `model` is None where an endpoint has a model of its own.
    """

    model: Artifact | None
    model_version: str
    parents: dict[str, str]
    parameters: dict[str, Any]


def find_writer(settings: Settings, warehouse: str, model: Artifact | None = None) -> Writer:
    """Return the writer that the settings name, with `model` or else the newest model allowed for `warehouse`.

    Raises WorkspaceError naming the command that makes the model when there is none.
    """
    from reclm.llm.prompts.shape import style_of

    profiles, llm = settings.profiles, settings.llm
    if profiles.engine != "openai":
        model = newest_model(settings, warehouse) if model is None else model
    version = "" if model is None else writer_version(model)
    parameters = {
        "engine": profiles.engine,
        "decoding": decoding_parameters(settings),
        "style": style_of(settings, endpoint=profiles.engine == "openai"),
        "prompt": llm.model_dump(include={"history", "neighbours", "neighbour_items", "max_prompt_tokens"}),
        "model_version": version,
    }
    if profiles.engine == "openai":
        parameters |= endpoint_parameters(settings)
    return Writer(model, version, {} if model is None else {model.kind: model.version}, parameters)


def endpoint_parameters(settings: Settings) -> dict[str, Any]:
    """Return which model of which endpoint writes: its address, the model's name and its revision where one is known.

    Says so when the model is in another state than it was when it wrote last. When a named model cannot be asked about,
    it counts as unchanged.
    """
    from reclm.llm.engines.openai import ServedModel, served_model

    about, before = settings.openai, _last_written_by(settings)
    last = ServedModel(before["model"], before.get("revision", "")) if before else None
    try:
        served = served_model(settings, retries=0 if last and about.model else None)
    except ModelError as error:
        if not last or not about.model:
            raise
        say(f"{error}")
        say(f"the model {about.model!r} counts as the one that wrote before")
        served = last
    if last and last.model == served.model and last.revision != served.revision:
        say(
            f"{about.base_url} serves another state of {served.model!r} ({served.revision or 'it does not say which'}) "
            f"than when it wrote before ({last.revision or 'not recorded'}): profiles are written anew. With "
            "openai.revision you decide when"
        )
    revision = {"revision": served.revision} if served.revision else {}
    return {"base_url": about.base_url, "model": served.model, **revision}


def _last_written_by(settings: Settings) -> dict[str, Any] | None:
    """Return the parameters of the newest profiles by the endpoint, and by the model if one is named."""
    about = settings.openai
    for artifact in reversed(artifacts.all_of(settings.paths, "profiles")):
        parameters = artifact.manifest["parameters"]
        if parameters.get("base_url") == about.base_url and about.model in ("", parameters["model"]):
            return dict(parameters)
    return None


def writer_version(model: Artifact) -> str:
    """Return the name under which a model's answers are stored.

    A refinement that kept the tuned model unchanged has the tuned model's name, so that its answers are reused.
    """
    if model.kind == "refine" and model.metrics.get("kept_step") == 0:
        return f"sft-{model.manifest['parents']['sft']}"
    return f"{model.kind}-{model.version}"


def decoding_parameters(settings: Settings) -> dict[str, Any]:
    """Return the settings that the answer to a prompt depends on."""
    from reclm.llm.engines.openai import request_parameters

    return {
        "temperature": settings.profiles.temperature,
        "retries": settings.profiles.retries,
        "max_tokens": settings.llm.max_profile_tokens,
        "seed": settings.seed,
        **(request_parameters(settings) if settings.profiles.engine == "openai" else {}),
    }


def teacher_for_prompts(settings: Settings, warehouse: str, model: Artifact | None) -> Teacher:
    """Return the teacher whose item profiles describe the audiences of neighbours in items' prompts.

    That is the teacher of this warehouse, else the teacher that `model` learned from. The keyword teacher's profiles
    are written when they do not exist. Raises WorkspaceError when there is no teacher at all.
    """
    from reclm.llm.teacher.stage import load_teacher, write_teacher

    if settings.teacher.engine == "extractive":
        written = write_teacher(settings)
        if written is None:
            raise ArtifactError("the teacher wrote no profiles; run `reclm tune` to see why")
        return load_teacher(settings, written)
    found = artifacts.all_of(settings.paths, "teacher")
    own = artifacts.ancestor(settings.paths, model, "teacher")
    of_build = [teacher for teacher in found if teacher.manifest["parents"].get("warehouse") == warehouse]
    of_model = [teacher for teacher in found if own is not None and teacher.version == own.version]
    # The model's own teacher knows no more than the model, which was checked when the writer was found.
    candidates = [teacher for teacher in of_model if teacher in of_build] or of_build or of_model
    if not candidates and found:
        candidates = within_cutoff(settings, found, warehouse)
    if candidates:
        return load_teacher(settings, preferred(settings, candidates, warehouse))
    raise WorkspaceError(f"{settings.paths.root} holds no teacher profiles; run `reclm tune` first")


def new_prompt_batch(settings: Settings, writer: Writer) -> PromptBatch:
    """Return an empty batch whose budget is counted by the writer's tokenizer; an endpoint's tokens are estimated."""
    from reclm.llm.models.loading import load_tokenizer, model_location
    from reclm.llm.prompts.shape import shape_of
    from reclm.llm.prompts.templates import token_counter

    count: TokenCount = estimated_tokens
    if writer.model is not None:
        count = token_counter(load_tokenizer(model_location(settings, writer.model)))
    return PromptBatch(shape_of(settings, endpoint=writer.model is None), count)


def load_facts(
    connection: DuckDBPyConnection, kind: EntityKind, snapshot: Snapshot, teacher: Teacher
) -> Mapping[str, Facts]:
    """Return {id: what is known of the user or item at `snapshot`}."""
    from reclm.llm.prompts.facts import load_item_facts, load_user_facts

    if kind == "user":
        return load_user_facts(connection, snapshot)
    return load_item_facts(connection, snapshot, lambda item_id: teacher.interests(item_id, snapshot))


def answer_batch(
    settings: Settings, writer: Writer, batch: PromptBatch, folder: Path, *, full: bool
) -> tuple[dict[str, GenerationRow], dict[str, Any]]:
    """Answer all prompts of a batch; return {prompt hash: answer} and metrics for the manifest.

    Unless `full`, answers that the same engine and model gave with the same decoding settings are taken from earlier
    artifacts. New answers are written into `folder`.
    """
    from reclm.llm.models.loading import model_location

    location = "" if writer.model is None else model_location(settings, writer.model)
    with open_engine(settings, location, writer.model_version) as engine:
        folders = (
            artifact.path
            for artifact in artifacts.all_of(settings.paths, "profiles")
            if artifact.manifest["parameters"].get("decoding") == writer.parameters["decoding"]
        )
        known = {} if full else earlier_answers(folders, engine)
        rows = generate(settings, engine, batch.requests, folder, known)
    new = [row for key, row in rows.items() if key not in known]
    return rows, {
        "prompts": len(batch.requests),
        "distinct_prompts": len(rows),
        "generated": len(new),
        "asked_again": sum(row.attempts > 1 for row in new),
        "malformed": sum(row.parse_status != grammar.OK for row in rows.values()),
        "tokens": sum(row.tokens for row in new),
        "model_version": engine.model_version,
        "engine_version": engine.version,
    }
