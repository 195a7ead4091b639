"""Profiles by a language model: facts of both snapshots come in, the texts of every user and item go out.

Turn 1 of each entity is fitted to the budget and answered by the engine that the settings name, with the newest model of
the stage that the settings name (RecLM, arXiv 2412.19302, section 3.4). Prompts that the same model has answered for an
earlier artifact are not asked again. Of whom nothing is known the model is asked with nothing, and the row is flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.dataset import Snapshot
from reclm.errors import ArtifactError, WorkspaceError
from reclm.llm.engines.answers import GenerationRow, Request, earlier, generate, prompt_hash
from reclm.llm.engines.base import Engine, open_engine
from reclm.llm.models.training_cutoff import ancestor, beyond_cutoff, training_cutoff
from reclm.llm.prompts.messages import Facts, Kind, Message, Shape, UserFacts, estimated_tokens, fitted, is_silent
from reclm.profiles import grammar
from reclm.profiles.keywords import KNOWN, NO_HISTORY, NO_TEXT
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import PROFILE_FILE_FORMAT
from reclm.storage.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.llm.teacher.stage import Teacher
    from reclm.settings.tree import Settings

KIND_OF_MODEL = {"refined": "refine", "tuned": "sft", "base": "base"}
COMMAND_OF_KIND = {"refine": "reclm refine", "sft": "reclm tune", "base": "reclm tune"}
Count = Callable[[list[Message]], int]


@dataclass(frozen=True)
class Writer:
    """What writes: `model` is None where an endpoint has its own; `parents` and `parameters` are those of an artifact."""

    model: Artifact | None
    model_version: str
    parents: dict[str, str]
    parameters: dict[str, Any]


@dataclass
class Asked:
    """The entities of one kind and snapshot: for each id the hash of its prompt and its flag."""

    hashes: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    trimmed: int = 0


def writer_of(settings: Settings, warehouse: str, model: Artifact | None = None) -> Writer:
    """Who writes by these settings: `model`, or the newest of `profiles.model`, those of the `warehouse` before others.

    Raises WorkspaceError naming the command that makes the model when there is none.
    """
    from reclm.llm.engines.openai import model_asked
    from reclm.llm.prompts.shape import style_of

    if settings.profiles.engine != "openai":
        model = newest_model(settings, warehouse) if model is None else model
    profiles, llm, endpoint = settings.profiles, settings.llm, settings.openai
    version = "" if model is None else answers_as(model)
    parameters = {
        "engine": profiles.engine,
        "decoding": decoding(settings),
        "style": style_of(settings, endpoint=profiles.engine == "openai"),
        "prompt": llm.model_dump(include={"history", "neighbours", "neighbour_items", "max_prompt_tokens"}),
        "model_version": version,
        "file_format": PROFILE_FILE_FORMAT,
    }
    if profiles.engine == "openai":
        parameters |= {"base_url": endpoint.base_url, "model": model_asked(settings)}
    return Writer(model, version, {} if model is None else {model.kind: model.version}, parameters)


def answers_as(model: Artifact) -> str:
    """The name of the model that answers: the tuned one's where refinement kept it as it was, so that what it has
    written stands."""
    if model.kind == "refine" and model.metrics.get("kept_step") == 0:
        return f"sft-{model.manifest['parents']['sft']}"
    return f"{model.kind}-{model.version}"


def decoding(settings: Settings) -> dict[str, Any]:
    """The settings that an answer to a prompt depends on."""
    return {
        "temperature": settings.profiles.temperature,
        "retries": settings.profiles.retries,
        "max_tokens": settings.llm.max_profile_tokens,
        "seed": settings.seed,
    }


def newest_model(settings: Settings, warehouse: str) -> Artifact:
    """The model of `profiles.model`: of this warehouse before others, made by these settings before others, the newest."""
    from reclm.llm.lineage import preferred

    kind = KIND_OF_MODEL[settings.profiles.model]
    workspace = settings.paths
    found = artifacts.all_of(workspace, kind)
    if not found:
        raise WorkspaceError(
            f"{workspace.root} holds no {kind} model for profiles.model = {settings.profiles.model!r}; run "
            f"`{COMMAND_OF_KIND[kind]}` first, or set profiles.engine to 'extractive'"
        )
    return preferred(settings, _knowing_no_more(settings, found, warehouse), warehouse)


def _knowing_no_more(settings: Settings, found: Sequence[Artifact], fingerprint: str) -> list[Artifact]:
    """Those of this warehouse, and of others' those that know nothing that it does not. Raises WorkspaceError when there is
    none."""
    from reclm.warehouse.reading import connect

    own = [artifact.manifest["parents"].get("warehouse") == fingerprint for artifact in found]
    if all(own):
        return list(found)
    with closing(connect(settings)) as connection:
        now = training_cutoff(connection)
    more = ["" if mine else beyond_cutoff(settings.paths, one, now) for one, mine in zip(found, own, strict=True)]
    if all(more):
        raise WorkspaceError(f"{more[-1]}; run `reclm tune`, `reclm reward` and `reclm refine` again")
    return [one for one, why in zip(found, more, strict=True) if not why]


def teacher_of(settings: Settings, warehouse: str, model: Artifact | None) -> Teacher:
    """Whose word on audiences stands in items' prompts: the teacher of this warehouse, else the one the model had.

    The keyword teacher writes when it has not. Raises WorkspaceError when there is no teacher at all.
    """
    from reclm.llm.teacher.stage import load_teacher, write_teacher

    if settings.teacher.engine == "extractive":
        return load_teacher(settings, _written(write_teacher(settings)))
    from reclm.llm.lineage import preferred

    found = artifacts.all_of(settings.paths, "teacher")
    own = ancestor(settings.paths, model, "teacher")
    current = [one for one in found if one.manifest["parents"].get("warehouse") == warehouse]
    mine = [one for one in found if own is not None and one.version == own.version]
    chosen = [one for one in mine if one in current] or current or mine  # the model's own knows no more than the model
    if not chosen and found:
        chosen = _knowing_no_more(settings, found, warehouse)
    if chosen:
        return load_teacher(settings, preferred(settings, chosen, warehouse))
    raise WorkspaceError(f"{settings.paths.root} holds no teacher profiles; run `reclm tune` first")


def _written(artifact: Artifact | None) -> Artifact:
    if artifact is None:
        raise ArtifactError("the teacher wrote nothing")
    return artifact


@dataclass
class PromptBatch:
    """Prompts of many entities, gathered before any is asked, so that identical ones are asked once."""

    shape: Shape
    count: Count
    requests: list[Request] = field(default_factory=list)

    def add(self, kind: Kind, facts: Mapping[str, Facts], ids: Iterable[str]) -> Asked:
        """The prompts of `ids`; every one needs its facts."""
        asked = Asked()
        for entity in ids:
            messages, trimmed = fitted(facts[entity], self.shape, self.count)
            self.requests.append(Request(kind, messages))
            asked.hashes[entity] = prompt_hash(messages)
            asked.flags[entity] = flag_of(facts[entity])
            asked.trimmed += trimmed
        return asked


def flag_of(facts: Facts) -> str:
    """KNOWN, or why an honest profile of this entity can only be anybody's."""
    if not is_silent(facts):
        blank = isinstance(facts, UserFacts) and not any(line.strip() for line in facts.history)
        return NO_TEXT if blank else KNOWN
    return NO_HISTORY if isinstance(facts, UserFacts) else NO_TEXT


def prompt_batch(settings: Settings, writer: Writer) -> PromptBatch:
    """An empty gathering, with the budget counted by the writer's own tokenizer, or estimated for an endpoint."""
    from reclm.llm.models.loading import load_tokenizer, model_location
    from reclm.llm.prompts.shape import shape_of
    from reclm.llm.prompts.templates import token_counter

    count: Count = estimated_tokens
    if writer.model is not None:
        count = token_counter(load_tokenizer(model_location(settings, writer.model)))
    return PromptBatch(shape_of(settings, endpoint=writer.model is None), count)


def facts_of(connection: DuckDBPyConnection, kind: Kind, snapshot: Snapshot, teacher: Teacher) -> Mapping[str, Facts]:
    """{id: what is known at the snapshot}."""
    from reclm.llm.prompts.facts import load_item_facts, load_user_facts

    if kind == "user":
        return load_user_facts(connection, snapshot)
    return load_item_facts(connection, snapshot, lambda item_id: teacher.interests(item_id, snapshot))


def ask(
    settings: Settings, writer: Writer, gathered: PromptBatch, folder: Path, *, full: bool
) -> tuple[dict[str, GenerationRow], dict[str, Any]]:
    """{prompt_hash: answer} of everything gathered, and what the manifest should tell of it.

    Unless `full`, answers that the same engine and model gave by the same decoding settings are taken from earlier
    artifacts. New ones stand in `folder`.
    """
    from reclm.llm.models.loading import model_location

    location = "" if writer.model is None else model_location(settings, writer.model)
    with open_engine(settings, location, writer.model_version) as engine:
        known = {} if full else _earlier(settings, writer, engine)
        rows = generate(settings, engine, gathered.requests, folder, known)
    new = [row for key, row in rows.items() if key not in known]
    return rows, {
        "prompts": len(gathered.requests),
        "distinct_prompts": len(rows),
        "generated": len(new),
        "asked_again": sum(row.attempts > 1 for row in new),
        "malformed": sum(row.parse_status != grammar.OK for row in rows.values()),
        "tokens": sum(row.tokens for row in new),
        "model_version": engine.model_version,
        "engine_version": engine.version,
    }


def _earlier(settings: Settings, writer: Writer, engine: Engine) -> dict[str, GenerationRow]:
    alike = writer.parameters["decoding"]
    return earlier(_folders(settings.paths, alike), engine)


def _folders(workspace: Workspace, decoding: Mapping[str, Any]) -> Iterator[Path]:
    for artifact in artifacts.all_of(workspace, "profiles"):
        if artifact.manifest["parameters"].get("decoding") == decoding:
            yield artifact.path
