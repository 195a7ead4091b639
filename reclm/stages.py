"""The stages, in order, one public function each: the table of contents of the system.

Every stage takes the settings, finds its inputs in the workspace, and leaves something whole behind: run it again on
the same inputs and it says that it reuses what stands; kill it anywhere and the next run makes up for it. The command
line and the schedule call these functions and nothing below them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclm.errors import WorkspaceError
from reclm.progress import say
from reclm.storage import artifacts
from reclm.storage.locks import alone
from reclm.storage.runs import recorded

if TYPE_CHECKING:
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact


LEARNING_ENGINES = ("transformers", "vllm")
"""Engines that run a model which is tuned here."""


@contextmanager
def one_at_a_time(settings: Settings) -> Iterator[None]:
    """One `run` or `forget` at a time works in a workspace; a second waits and says so."""
    with alone(settings.paths.locks / "run.lock", f"another run is at work in {settings.paths.root}"):
        yield


def ingest(
    settings: Settings,
    source: Path | None = None,
    *,
    delivery: bool = False,
    only: Literal["items"] | None = None,
) -> dict[str, Any]:
    """Logs and item texts into `landing/`, unedited. `source` is a folder or a file; None makes the demo world.

    A `delivery` joins the data set that stands, whatever it is called; with `only`, nothing but item tables are landed.
    """
    from reclm.ingest import ingest as land

    with recorded(settings.paths, "ingest", source=source.name if source else "demo") as about:
        dataset = land(settings, source, delivery=delivery, only=only)
        about |= {
            "dataset": dataset["name"],
            "rows": {
                table: sum(b["rows"] for b in dataset["batches"] if b["table"] == table)
                for table in ("interactions", "items", "users")
            },
        }
    return dataset


def _is_older(artifact: Artifact, about: dict[str, Any]) -> bool:
    """True when the artifact stood before this stage run began."""
    return bool(artifact.manifest["created_at"] < about["began"])


def build(settings: Settings, phase: str = "all", *, force: bool = False) -> dict[str, Any]:
    """dbt, then the analysts' read-only copy. `phase` is `features`, `profiles`, `evaluation` or `all`."""
    from reclm.warehouse.build import build as build_warehouse

    settings.paths.require_dataset()
    with recorded(settings.paths, "build", phase=phase) as about:
        result = build_warehouse(settings, phase, force=force)
        about |= {key: result[key] for key in ("build_id", "reused") if key in result}
    return result


def teach(settings: Settings, *, dry_run: bool = False) -> Artifact | None:
    """What the language model learns to write: artifact `teacher`. A `dry_run` only says what an endpoint would cost."""
    from reclm.llm.teacher.stage import write_teacher

    if dry_run:
        return write_teacher(settings, dry_run=True)
    with recorded(settings.paths, "teach", engine=settings.teacher.engine) as about:
        teacher = write_teacher(settings)
        if teacher is not None:
            about |= {"version": teacher.version, "reused": _is_older(teacher, about)}
    return teacher


def tune(settings: Settings) -> Artifact:
    """The base model tuned on two-turn dialogues: artifacts `base` and `sft`."""
    from reclm.llm.pipeline import ModelPipeline

    teach(settings)
    chain = ModelPipeline(settings)
    with recorded(settings.paths, "base", model=settings.llm.base_model) as about:
        base = chain.base_model()
        about |= {"version": base.version, "reused": _is_older(base, about)}
    with recorded(settings.paths, "tune", turns=settings.tune.turns) as about:
        tuned = chain.tuned_model()
        about |= {"version": tuned.version, "reused": _is_older(tuned, about)}
    return tuned


def reward(settings: Settings) -> Artifact:
    """What judges a profile: artifact `reward`."""
    from reclm.llm.pipeline import ModelPipeline

    with recorded(settings.paths, "reward", model=settings.reward.model) as about:
        rewarded = ModelPipeline(settings).reward_model()
        about |= {"version": rewarded.version, "reused": _is_older(rewarded, about)}
    return rewarded


def refine(settings: Settings) -> Artifact:
    """The tuned model after reinforcement learning against the reward model: artifact `refine`."""
    from reclm.llm.pipeline import ModelPipeline

    with recorded(settings.paths, "refine", method=settings.refine.method) as about:
        refined = ModelPipeline(settings).refined_model()
        about |= {"version": refined.version, "reused": _is_older(refined, about)}
    return refined


def fall_back_to_keywords(settings: Settings) -> Settings:
    """The settings, or the same with the keyword engine, and why is said, where a language model has too little to learn:
    no texts at all, or hardly anybody the teacher can write of."""
    from reclm.llm.pipeline import ModelPipeline
    from reclm.warehouse.reading import connect

    if settings.profiles.engine not in LEARNING_ENGINES:
        return settings
    with closing(connect(settings)) as connection:
        found = connection.execute(
            "select count(*) from dim_items where trim(coalesce(full_text, '')) != ''"
        ).fetchone()
    if found is None or not found[0]:
        reason = "no item has a title, category or text, so profiles stay empty"
    else:
        teach(settings)
        reason = ModelPipeline(settings).lack_of_data()
    if not reason:
        return settings
    say(f"no language model is trained: {reason} (profiles.engine=extractive)")
    return settings.model_copy(update={"profiles": settings.profiles.model_copy(update={"engine": "extractive"})})


def ablate(settings: Settings, *, reward_of: Path | None = None) -> Artifact:
    """Every writer's profiles under the same backbones and seeds: artifact `ablation`. `reward_of`: another workspace."""
    from reclm.ablation.run import ablate as compare

    with one_at_a_time(settings), recorded(settings.paths, "ablate", arms=",".join(settings.ablate.arms)) as about:
        ablation = compare(_with_arms(settings), reward_of=reward_of)
        about |= {"version": ablation.version, "reused": _is_older(ablation, about)}
    return ablation


def _with_arms(settings: Settings) -> Settings:
    """The settings, with the keyword arm alone where no language model can be trained. Raises WorkspaceError without one."""
    wanted, by_keywords = settings.ablate, ("extractive",)
    if wanted.arms == by_keywords and not wanted.extras:
        return settings
    profiles = settings.profiles
    if profiles.engine not in LEARNING_ENGINES:
        profiles = profiles.model_copy(update={"engine": "transformers"})
    if fall_back_to_keywords(settings.model_copy(update={"profiles": profiles})).profiles.engine in LEARNING_ENGINES:
        return settings
    if by_keywords[0] not in wanted.arms:
        raise WorkspaceError(
            "every writer of ablate.arms is a language model; set ablate.arms to extractive, or bring more data"
        )
    return settings.model_copy(update={"ablate": wanted.model_copy(update={"arms": by_keywords, "extras": ()})})


def learn(settings: Settings) -> None:
    """Everything `profile` needs besides the warehouse: nothing for keywords or an endpoint, else the models up to
    `profiles.model`."""
    if settings.profiles.engine not in LEARNING_ENGINES:
        if settings.profiles.engine == "openai":
            teach(settings)
        return
    tune(settings)
    if settings.profiles.model == "refined":
        reward(settings)
        refine(settings)


def profile(
    settings: Settings, *, full: bool = False, items: Literal["all", "new"] = "all"
) -> tuple[Artifact, Artifact]:
    """User and item profiles at both snapshots, then the vectors of every distinct text: artifacts `profiles`, `embeddings`.

    `full` asks a language model everything again; `items="new"` adds profiles of items that have none yet, nothing else.
    """
    from reclm.generation.embeddings import write_embeddings
    from reclm.generation.stage import write_profiles

    with recorded(settings.paths, "profile", engine=settings.profiles.engine) as about:
        profiles = write_profiles(settings, full=full, items=items)
        about |= {"version": profiles.version, "reused": _is_older(profiles, about), **profiles.metrics}
    with recorded(settings.paths, "embed", model=settings.embedding.model) as about:
        embeddings = write_embeddings(settings)
        about |= {"version": embeddings.version, "reused": _is_older(embeddings, about), **embeddings.metrics}
    build(settings, "profiles")
    return profiles, embeddings


def publish(settings: Settings, *, rewind: bool = False) -> dict[str, Any]:
    """Checked features into Feast, offline and online, and the champion's vectors where the online store has lost them.
    `rewind` lets an older build replace a newer one."""
    from reclm.features.fused import restore
    from reclm.features.publish import publish as to_feast
    from reclm.promotion import champion

    with recorded(settings.paths, "publish", online_store=settings.feast.online_store) as about:
        result = to_feast(settings, rewind=rewind)
        about |= result
        if settings.paths.champion.exists():
            about["restored"] = restore(settings, champion.current(settings)["version"])
    return result


def train(settings: Settings) -> list[Artifact]:
    """One `backbone` artifact for each model, variant and seed: selected on `select`, refitted on `final`."""
    from reclm.training.stage import train_all

    with recorded(settings.paths, "train", models=",".join(settings.train.models)) as about:
        trained, made = train_all(settings)
        about |= {"artifacts": len(trained), "trained": made, "reused": made == 0}
    return trained


def evaluate(settings: Settings, backbones: Sequence[Artifact] | None = None) -> Artifact:
    """Metrics, intervals, bands and comparisons of the given models and all baselines: artifact `evaluation`, then its tables."""
    from reclm.training.stage import finished_backbones

    evaluation = _evaluated(settings, finished_backbones(settings) if backbones is None else backbones)
    build(settings, "evaluation")
    return evaluation


def _evaluated(settings: Settings, backbones: Sequence[Artifact]) -> Artifact:
    from reclm.evaluation.evaluate import evaluate as measure

    with recorded(settings.paths, "evaluate", models=len(backbones)) as about:
        evaluation = measure(settings, backbones)
        about |= {"version": evaluation.version, "reused": _is_older(evaluation, about)}
    return evaluation


def promote(settings: Settings, trained: Sequence[Artifact] | None = None, *, approved: bool | None = None) -> Artifact:
    """The policy's decision on the given models, or on those that stand: artifact `promotion`, the champion where it says so,
    then its table. `approved` is a person's answer where one was asked (see `promotion.decide`)."""
    from reclm.training.stage import finished_backbones

    decision = _decided(settings, finished_backbones(settings) if trained is None else trained, approved)
    build(settings, "evaluation")
    return decision


def _decided(settings: Settings, trained: Sequence[Artifact], approved: bool | None = None) -> Artifact:
    from reclm.promotion.decisions import decide

    with recorded(settings.paths, "promote", models=len(trained)) as about:
        decision = decide(settings, trained, approved=approved)
        about |= {"version": decision.version, "decision": decision.metrics["decision"]}
        about |= {"reason": decision.metrics["reason"], "reused": _is_older(decision, about)}
    return decision


def promote_by_hand(settings: Settings, version: str, *, reason: str = "") -> Artifact:
    """The trained model `version` becomes champion because a person says so: artifact `promotion`, then its table."""
    from reclm.promotion.decisions import promote_by_hand as choose

    with recorded(settings.paths, "promote", model=version) as about:
        decision = choose(settings, version, reason=reason)
        about |= {"version": decision.version, "reused": _is_older(decision, about)}
    build(settings, "evaluation")
    return decision


def rollback(settings: Settings, *, reason: str = "") -> Artifact:
    """The champion before this one is champion again: artifact `promotion`, then its table."""
    from reclm.promotion.decisions import roll_back

    with recorded(settings.paths, "rollback") as about:
        decision = roll_back(settings, reason=reason)
        about |= {"version": decision.version, "model": decision.metrics["candidate_version"]}
    build(settings, "evaluation")
    return decision


def cold_items(settings: Settings) -> dict[str, Any]:
    """From landing to recommendable with nothing trained: new items get a profile by the model that wrote the others, an
    embedding, rows in Feast and a place among the champion's candidates. Returns `{version, items, missing, added}`.

    Raises WorkspaceError when there is no champion, or the profiles that stand cannot be added to.
    """
    from reclm.promotion.new_items import add_new_items, candidate_status

    build(settings, "features")
    profile(settings, items="new")
    there = candidate_status(settings)
    if not there["missing"]:
        return there  # the usual answer, every few minutes: the feature store is not even opened
    publish(settings)
    with recorded(settings.paths, "candidates") as about:
        result = add_new_items(settings)
        about |= result | {"reused": result["added"] == 0}
    return result


def check_health(settings: Settings, *, require: bool = True) -> Artifact:
    """Whether data, profiles, vectors and feature store are fit to be used: artifact `health`, then `fct_health`.

    With `require` raises HealthError, after the rows are in SQL, when a check named in `health.fail` is breached.
    """
    from reclm.health import checks

    with recorded(settings.paths, "health") as about:
        checked = checks.check_health(settings)
        about |= {"version": checked.version, "reused": _is_older(checked, about), **checked.metrics}
    build(settings, "evaluation")
    if require:
        checks.require_healthy(checked, settings)
    return checked


def report(settings: Settings) -> Path:
    """One self-contained HTML page."""
    from reclm.evaluation.report.page import write_report

    with recorded(settings.paths, "report"):
        return write_report(settings)


def run(settings: Settings, source: Path | None, *, on_ingested: Callable[[Settings], None] | None = None) -> Artifact:
    """Run every stage, from a log to a report and a champion. Returns the artifact `evaluation`.

    `on_ingested` is called once the data has landed: the command line announces there how long the rest will take.
    """
    with one_at_a_time(settings):
        ingest(settings, source)
        if on_ingested is not None:
            on_ingested(settings)
        build(settings, "features")
        settings = fall_back_to_keywords(settings)
        learn(settings)
        profile(settings)
        publish(settings)
        trained = train(settings)
        evaluation = _evaluated(settings, trained)
        _decided(settings, trained)
        build(settings, "evaluation")  # once for both
        report(settings)
    return evaluation


def maintain(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Removes artifacts that nobody needs any more, leftovers and old records. A `dry_run` only tells what would go."""
    from reclm.maintenance import maintain as tidy

    if dry_run:
        return tidy(settings, dry_run=True)
    with one_at_a_time(settings), recorded(settings.paths, "maintain") as about:
        result = tidy(settings)
        about |= {key: value for key, value in result.items() if isinstance(value, int | str)}
    return result


def forget(settings: Settings, user_id: str) -> dict[str, int]:
    """Remove every row of a user from the workspace and rebuild the warehouse. Returns the removed rows by folder.

    Raises InputError when no row carries the id.
    """
    from reclm.maintenance.forget import remove_user
    from reclm.warehouse.reading import as_built

    with one_at_a_time(settings):
        removed = remove_user(settings, user_id)
        build(as_built(settings), force=True)
    return removed


def stored(settings: Settings) -> dict[str, list[Artifact]]:
    """Every finished artifact by kind."""
    return {kind: artifacts.all_of(settings.paths, kind) for kind in artifacts.KINDS}
