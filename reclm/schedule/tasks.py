"""One function a task: a DAG run's parameters come in, one stage is called, and what Airflow should remember goes out.

Results are small dictionaries of plain values (Airflow keeps them); artifacts stay in the workspace. Everything heavy is
imported inside the functions, so that a DAG file loads at once. A stage that finds its result standing returns
`reused`; whether anything new is worth telling downstream is decided by `announced`, against what was told last, so a
task that is killed after its work and tried again still tells it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact

Params = Mapping[str, Any]
Result = dict[str, Any]


def load(params: Params) -> Settings:
    """The settings of this deployment (file, environment) with what the run's parameters override."""
    import os

    from reclm.settings.loading import load
    from reclm.settings.machine import bound_libraries

    given = {key: value for key, value in (params.get("settings") or {}).items() if value is not None}
    flags = [f"{key}={json.dumps(v) if isinstance(v, list) else v}" for key, v in given.items()]
    if params.get("as_of"):
        flags.append(f"data.as_of={params['as_of']}")
    workspace = params.get("workspace")
    loaded = load(flags, workspace=Path(workspace) if workspace else None)
    bound_libraries(loaded)
    os.environ["RECLM_WORKSPACE"] = str(loaded.paths.root)  # Feast's definitions and dbt's profile read it
    return loaded


def as_built(params: Params) -> Settings:
    """The same, with the moment of knowledge of the build that stands: what follows a build knows what it knows."""
    from reclm.warehouse.reading import as_built

    return as_built(load({**params, "as_of": None}))


def inbox(settings: Settings) -> Path:
    """The folder that deliveries are dropped into. Made when it is missing."""
    folder = settings.paths.root / Path(settings.schedule.inbox).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ingest(params: Params, *, only: Literal["items"] | None = None) -> Result:
    """What is new in the inbox, into landing; with `only`, nothing but item tables. An empty inbox is an empty day."""
    from reclm import stages
    from reclm.ingest.files import tables_in

    settings = load(params)
    folder = inbox(settings)
    before = _batches(settings)
    files = tables_in(folder)
    if params.get("dry_run") or not files:
        return {"new_batches": 0, "batches": len(before), "files": len(files)}
    stages.ingest(settings, folder, delivery=True, only=only)
    after = _batches(settings)
    return {"new_batches": len(after - before), "batches": len(after)}


def _batches(settings: Settings) -> set[tuple[str, str]]:
    from reclm.storage.files import read_json

    if not settings.paths.dataset.exists():
        return set()
    return {(batch["table"], batch["batch"]) for batch in read_json(settings.paths.dataset)["batches"]}


def has_data(params: Params) -> bool:
    """False before anything has landed."""
    return load(params).paths.dataset.exists()


def features(params: Params, logical_date: datetime | None) -> Result:
    """dbt's features phase, as of the run's logical date; `params.as_of` wins."""
    from reclm import stages

    as_of = params.get("as_of") or (logical_date.isoformat() if logical_date else "")
    settings = load({**params, "as_of": as_of})
    if params.get("dry_run"):
        return {"dry_run": True, "as_of": settings.data.as_of}
    built = stages.build(settings, "features")
    return {
        **_where(settings),
        "version": built["features_fingerprint"],
        "build_id": built["build_id"],
        "as_of": built["as_of"],
        **_sizes(settings),
    }


def _sizes(settings: Settings) -> Result:
    from contextlib import closing

    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        found = connection.execute(
            "select (select count(*) from dim_users), (select count(*) from dim_items), "
            "(select count(*) from fct_known_interactions where snapshot = 'final'), "
            "(select count(*) from quarantine_interactions)"
        ).fetchall()[0]
    return dict(zip(("users", "items", "interactions", "quarantined"), found, strict=True))


def health(params: Params) -> Result:
    """The health checks, as rows of fct_health; fails on a breach of a check named in health.fail."""
    from reclm import stages
    from reclm.health.checks import drifted_checks

    checked = stages.check_health(as_built(params))
    return {"version": checked.version, "drifted": drifted_checks(checked)}


def tuning_due(params: Params, drifted: Sequence[str] = ()) -> Result:
    """`reason`: why the language model should be tuned now; empty: no reason."""
    from reclm import stages
    from reclm.errors import WorkspaceError
    from reclm.llm.lineage import newest_model
    from reclm.warehouse.reading import warehouse_fingerprint

    settings, reason = stages.fall_back_to_keywords(as_built(params)), ""
    if settings.profiles.engine in stages.LEARNING_ENGINES:
        try:
            newest_model(settings, warehouse_fingerprint(settings.paths))
            reason = f"drift: {', '.join(drifted)}" if drifted else ""
        except WorkspaceError as error:  # none stands, or those that do know more than this build may
            reason = str(error)
    return {**_where(settings), "reason": reason}


def why_not_tune(params: Params) -> str:
    """Why there is no model to tune; empty: there is one."""
    from reclm import stages

    settings = as_built(params)
    if not settings.paths.current_build.exists():
        return "nothing has been built yet"
    if stages.fall_back_to_keywords(settings).profiles.engine not in stages.LEARNING_ENGINES:
        return "profiles are not written by a model that is tuned here"
    return ""


def tune(params: Params) -> Result:
    """Teacher, base model and two-turn tuning."""
    from reclm import stages

    return _about(stages.tune(as_built(params)))


def reward(params: Params) -> Result:
    """The reward model, where profiles are written by a refined one."""
    from reclm import stages

    settings = as_built(params)
    return _about(stages.reward(settings)) if settings.profiles.model == "refined" else {}


def refine(params: Params) -> Result:
    """The model that writes: the tuned one after PPO, or, by `profiles.model`, the tuned one as it is."""
    from reclm import stages

    settings = as_built(params)
    make = stages.refine if settings.profiles.model == "refined" else stages.tune
    return {**_where(settings), **_about(make(settings))}


def model_stands(params: Params) -> bool:
    """Whether profiles can be written now: by keywords, by an endpoint, or by a model that stands."""
    return not tuning_due(params)["reason"]


def profiles(params: Params) -> Result:
    """Profiles of what is new or changed, scored and embedded, and their tables."""
    from reclm import stages

    settings = stages.fall_back_to_keywords(as_built(params))
    written, embedded = stages.profile(settings)
    return {"version": written.version, "embeddings": embedded.version, **_plain(written.metrics)}


def publish(params: Params) -> Result:
    """Checked features into Feast, offline and online."""
    from reclm import stages

    settings = as_built(params)
    result = stages.publish(settings)
    about = {"version": result["version"], "online_store": result["online_store"], "reused": result["reused"]}
    return {**_where(settings), **about}


def train(params: Params) -> Result:
    """The backbones, from Feast."""
    from reclm import stages

    settings = as_built(params)
    if params.get("models"):
        settings = settings.model_copy(
            update={"train": settings.train.model_copy(update={"models": tuple(params["models"])})}
        )
    trained = stages.train(settings)
    return {"versions": [artifact.version for artifact in trained]}


def evaluate(params: Params, versions: Sequence[str]) -> Result:
    """All models and baselines on the test slice: for people to read, not for the decision."""
    from reclm import stages

    settings = as_built(params)
    return _about(stages.evaluate(settings, _backbones(settings, versions)))


def promote(params: Params, versions: Sequence[str], approved: bool | None = None) -> Result:
    """The promotion policy; `approved` is a person's word where settings ask for one."""
    from reclm import stages
    from reclm.promotion import champion

    settings = as_built(params)
    decided = stages.promote(settings, _backbones(settings, versions), approved=approved)
    standing = champion.current(settings)["version"] if settings.paths.champion.exists() else None
    return {**_where(settings), **_plain(decided.metrics), "decision_version": decided.version, "version": standing}


def report(params: Params) -> Result:
    """The HTML page."""
    from reclm import stages

    return {"page": str(stages.report(as_built(params)))}


def _backbones(settings: Settings, versions: Sequence[str]) -> list[Artifact]:
    from reclm.storage import artifacts

    return [artifacts.load(settings.paths, "backbone", version) for version in versions]


def cold_items(params: Params) -> Result:
    """New items, from the inbox to the champion's candidates, with nothing trained."""
    from reclm import stages

    settings = as_built(params)
    if not settings.paths.champion.exists():
        return {"added": 0, "waiting": "nothing has been promoted yet"}
    ingest(params, only="items")  # what people did waits for reclm_features
    return stages.cold_items(stages.fall_back_to_keywords(settings))


def maintain(params: Params) -> Result:
    """Retention, leftovers, orphans."""
    from reclm import stages

    return _plain(stages.maintain(as_built(params), dry_run=bool(params.get("dry_run"))))


def _about(artifact: Artifact) -> Result:
    return {"version": artifact.version, **_plain(artifact.metrics)}


def _where(settings: Settings) -> Result:
    """Which data set an asset event speaks of."""
    return {"workspace": str(settings.paths.root)}


def _plain(values: Mapping[str, Any]) -> Result:
    """Numbers, words and truths alone: what fits beside an asset event."""
    return {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
