"""Run the tasks of the DAGs, one function each.

In: a DAG run's parameters. Out: a small result; the work is done by stages. Results are dictionaries of plain values,
which Airflow keeps; artifacts stay in the workspace. Heavy imports sit inside the functions, so that a DAG file loads
at once. A task that finds its work done returns the same result as the one that did it;
`reclm.schedule.parts.announced` compares the version with the last asset event and starts what follows only for a new
one, so a task that is killed after its work and tried again still starts it.
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
    """Load the settings of this deployment (file, environment), overridden by the run's parameters.

    What people set by the command line and the workspace remembers counts where these say nothing. No task changes it.
    """
    import os

    from reclm.progress import say, set_verbose
    from reclm.settings.loading import load
    from reclm.settings.machine import bound_libraries
    from reclm.settings.memory import notes

    overrides = {key: value for key, value in (params.get("settings") or {}).items() if value is not None}
    flags = [f"{key}={json.dumps(v) if isinstance(v, list) else v}" for key, v in overrides.items()]
    if params.get("as_of"):
        flags.append(f"data.as_of={params['as_of']}")
    workspace = params.get("workspace")
    loaded = load(flags, workspace=Path(workspace) if workspace else None)
    loaded.paths.require_current_layout()
    for note in notes(loaded):
        say(note)
    bound_libraries(loaded.runtime)
    os.environ["RECLM_WORKSPACE"] = str(loaded.paths.root)  # Feast's definitions and dbt's profile read it
    set_verbose(True)  # a task's log is read when something is wrong
    return loaded


def settings_of_build(params: Params) -> Settings:
    """Load the settings with the as-of of the current build: what follows a build knows what the build knows."""
    from reclm.warehouse import reading

    return reading.settings_of_build(load({**params, "as_of": None}))


def inbox(settings: Settings) -> Path:
    """Return the folder that deliveries are dropped into, made when it is missing."""
    folder = settings.paths.root / Path(settings.schedule.inbox).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ingest(params: Params, *, only: Literal["items"] | None = None) -> Result:
    """Land the new files of the inbox and what services have logged; with `only`, nothing but item tables.

    An empty inbox is no error. `not_taken` says of each file that stayed out why, `refused` names those that a person
    must mend; the others land.
    """
    from reclm import stages
    from reclm.ingest.tables import tables_in

    settings = load(params)
    folder = inbox(settings)
    before = _batches(settings)
    files = tables_in(folder)
    if params.get("dry_run"):
        return {"new_batches": 0, "batches": len(before), "files": len(files)}
    if before and not only:
        stages.ingest_events(settings)  # first: an inbox that cannot be read must not hold them up
    delivery = stages.ingest_inbox(settings, folder, only=only)
    after = _batches(settings)
    return {
        "new_batches": len(after - before),
        "batches": len(after),
        "not_taken": delivery.summary["not_taken"],
        "refused": [one.file for one in delivery.refused],
    }


def _batches(settings: Settings) -> set[tuple[str, str]]:
    from reclm.storage.files import read_json

    if not settings.paths.dataset.exists():
        return set()
    return {(batch["table"], batch["batch"]) for batch in read_json(settings.paths.dataset)["batches"]}


def has_data(params: Params) -> bool:
    """Return whether anything has landed."""
    return load(params).paths.dataset.exists()


def features(params: Params, logical_date: datetime | None) -> Result:
    """Build the features with dbt, as of `params.as_of` or else the run's logical date."""
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
            "(select count(*) from fct_known_interactions where snapshot = 'serve'), "
            "(select count(*) from quarantine_interactions)"
        ).fetchall()[0]
    return dict(zip(("users", "items", "interactions", "quarantined"), found, strict=True))


def health(params: Params) -> Result:
    """Run the health checks and write them to `fct_health`. Raises HealthError for a breach named in health.fail."""
    from reclm import stages
    from reclm.health.checks import drifted_checks, require_healthy

    settings = settings_of_build(params)
    checked = stages.check_health(settings)
    stages.build(settings, "evaluation")
    require_healthy(checked, settings)
    return {"version": checked.version, "drifted": drifted_checks(checked)}


def tuning_due(params: Params, drifted: Sequence[str] = ()) -> Result:
    """Return `reason`: why the language model should be tuned now, '' for no reason. Only reads."""
    from reclm import stages
    from reclm.errors import WorkspaceError
    from reclm.llm.lineage import newest_model
    from reclm.warehouse.reading import whole_fingerprint

    settings, reason = stages.fall_back_to_keywords(settings_of_build(params)), ""
    if settings.profiles.engine in stages.LEARNING_ENGINES:
        try:
            newest_model(settings, whole_fingerprint(settings.paths))
            reason = f"drift: {', '.join(drifted)}" if drifted else ""
        except WorkspaceError as error:  # there is no model, or every one has seen more than this build may show
            reason = str(error)
    return {**_where(settings), "reason": reason}


def why_not_tune(params: Params) -> str:
    """Explain why no language model is trained on this data set, '' when one is. Only reads."""
    from reclm import stages

    settings = settings_of_build(params)
    if not settings.paths.current_build.exists():
        return "nothing has been built yet"
    if stages.fall_back_to_keywords(settings).profiles.engine not in stages.LEARNING_ENGINES:
        return "profiles are not written by a model that is tuned here"
    return ""


def teach(params: Params) -> Result:
    """Write the example profiles that the language model learns from."""
    from reclm import stages

    teacher = stages.teach(settings_of_build(params))
    return {} if teacher is None else _about(teacher)


def tune(params: Params) -> Result:
    """Train the base model and tune it on two-turn dialogues."""
    from reclm import stages

    settings = settings_of_build(params)
    stages.base(settings)
    return _about(stages.tune(settings))


def reward(params: Params) -> Result:
    """Train the reward model, where profiles are written by a refined model."""
    from reclm import stages

    settings = settings_of_build(params)
    return _about(stages.reward(settings)) if settings.profiles.model == "refined" else {}


def refine(params: Params) -> Result:
    """Return the model that writes profiles: refined now or, by `profiles.model`, the tuned one."""
    from reclm import stages

    settings = settings_of_build(params)
    make = stages.refine if settings.profiles.model == "refined" else stages.tune
    return {**_where(settings), **_about(make(settings))}


def can_write_profiles(params: Params) -> bool:
    """Return whether profiles can be written now: by keywords, an endpoint or a finished model. Only reads."""
    return not tuning_due(params)["reason"]


def profiles(params: Params) -> Result:
    """Write and embed the profiles of new and changed users and items, and build their tables."""
    from reclm import stages

    settings = stages.fall_back_to_keywords(settings_of_build(params))
    if settings.teacher.engine == "table" and settings.profiles.engine in stages.LEARNING_ENGINES:
        stages.teach(settings)  # what the table says of new users and items; an endpoint is asked when tuning
    written = stages.profile(settings)
    embedded = stages.embed(settings)
    stages.build(settings, "profiles")
    return {"version": written.version, "embeddings": embedded.version, **_plain(written.metrics)}


def publish(params: Params) -> Result:
    """Check the features and write them to Feast, offline and online."""
    from reclm import stages

    settings = settings_of_build(params)
    result = stages.publish(settings)
    about = {"version": result["version"], "online_store": result["online_store"], "reused": result["reused"]}
    return {**_where(settings), **about}


def train(params: Params) -> Result:
    """Train the recommenders on features from Feast."""
    from reclm import stages

    settings = settings_of_build(params)
    if params.get("models"):
        settings = settings.model_copy(
            update={"train": settings.train.model_copy(update={"models": tuple(params["models"])})}
        )
    trained = stages.train(settings)
    return {"versions": [artifact.version for artifact in trained]}


def evaluate(params: Params, versions: Sequence[str]) -> Result:
    """Measure the models and all baselines on the test slice: for people to read, not for the decision."""
    from reclm import stages

    settings = settings_of_build(params)
    evaluation = stages.evaluate(settings, _backbones(settings, versions))
    stages.build(settings, "evaluation")
    return _about(evaluation)


def propose(params: Params, versions: Sequence[str]) -> str:
    """Write the report and describe the candidate for the person who approves it; '' where there is none."""
    from reclm import stages
    from reclm.promotion.proposal import proposal

    settings = settings_of_build(params)
    return proposal(settings, _backbones(settings, versions), stages.report(settings))


def promote(params: Params, versions: Sequence[str], approved: bool | None = None) -> Result:
    """Decide by the policy who is champion; `approved` is a person's answer where settings ask for one."""
    from reclm import stages
    from reclm.promotion import champion

    settings = settings_of_build(params)
    decision = stages.promote(settings, _backbones(settings, versions), approved=approved)
    stages.build(settings, "evaluation")
    version = champion.current(settings)["version"] if settings.paths.champion.exists() else None
    return {**_where(settings), **_plain(decision.metrics), "decision_version": decision.version, "version": version}


def report(params: Params) -> Result:
    """Write the report."""
    from reclm import stages

    return {"page": str(stages.report(settings_of_build(params)))}


def _backbones(settings: Settings, versions: Sequence[str]) -> list[Artifact]:
    from reclm.storage import artifacts

    return [artifacts.load(settings.paths, "backbone", version) for version in versions]


def cold_items(params: Params) -> Result:
    """Make the new items of the inbox recommendable, without training anything."""
    from reclm import stages

    settings = settings_of_build(params)
    if not settings.paths.champion.exists():
        return {"added": 0, "waiting": "nothing has been promoted yet"}
    landed = ingest(params, only="items")  # interactions wait for reclm_features, which also fails for refused files
    return {**stages.cold_items(stages.fall_back_to_keywords(settings)), "refused": landed["refused"]}


def maintain(params: Params) -> Result:
    """Remove old artifacts, leftovers and old records."""
    from reclm import stages

    return _plain(stages.maintain(settings_of_build(params), dry_run=bool(params.get("dry_run"))))


def _about(artifact: Artifact) -> Result:
    return {"version": artifact.version, **_plain(artifact.metrics)}


def _where(settings: Settings) -> Result:
    """Return the data set of an asset event."""
    return {"workspace": str(settings.paths.root)}


def _plain(values: Mapping[str, Any]) -> Result:
    """Keep the numbers, strings and booleans: what fits beside an asset event."""
    return {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
