"""The stages of the system in the order of the data, one public function each: the table of contents.

Every stage takes the settings, reads its inputs from the workspace and leaves an artifact, a table or a page there. A
stage whose result exists reuses it, and one that was killed is completed by its next run. `run` puts them all together.
The command line and the schedule run the stages through these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reclm.progress import say
from reclm.storage.runs import no_stage_running, one_at_a_time, recorded

if TYPE_CHECKING:
    from reclm.ingest.inbox import Delivery
    from reclm.settings.tree import Settings
    from reclm.storage.artifacts import Artifact

LEARNING_ENGINES = ("transformers", "vllm")
"""Values of `profiles.engine` whose language model is trained here."""


def ingest(settings: Settings, source: Path | None = None) -> dict[str, Any]:
    """Copy logs and item texts, unedited, into the folder `landing`; without `source` the demo shop. Describe them."""
    from reclm.ingest import ingest as land
    from reclm.ingest import summary

    with recorded(settings.paths, "ingest", source=source.name if source else "demo") as about:
        about |= summary(dataset := land(settings, source))
    return dataset


def ingest_inbox(settings: Settings, folder: Path, *, only: Literal["items"] | None = None) -> Delivery:
    """Land the new files of the inbox. Returns the data set, and which files were not taken and why."""
    from reclm.ingest.inbox import land_inbox

    with recorded(settings.paths, "ingest", source="inbox") as about:
        about |= (delivery := land_inbox(settings, folder, only=only)).summary
    return delivery


def ingest_events(settings: Settings) -> dict[str, Any]:
    """Land what services have logged, events and impressions, exactly once. Returns the description of the data set."""
    from reclm.ingest import summary
    from reclm.ingest.collected import land_collected

    with recorded(settings.paths, "ingest", source="events") as about:
        about |= summary(dataset := land_collected(settings))
    return dataset


def build(settings: Settings, phase: str = "all", *, force: bool = False) -> dict[str, Any]:
    """Build and test the warehouse tables with dbt, then publish the read-only copy. Returns what was built.

    `phase` is `features`, `profiles`, `evaluation` or `all`: each includes those before it.
    """
    from reclm.warehouse.build import build as build_warehouse

    settings.paths.require_dataset()
    with recorded(settings.paths, "build", phase=phase) as about:
        result = build_warehouse(settings, phase, force=force)
        about |= {key: result[key] for key in ("build_id", "reused") if key in result}
        about["made"] = f"tables up to {phase}, built and tested" if phase != "all" else "all tables, built and tested"
    return result


def teach(settings: Settings, *, dry_run: bool = False) -> Artifact | None:
    """Write the example profiles that the language model learns from: artifact `teacher`.

    With `dry_run`, only say what asking an endpoint would cost, and return None.
    """
    from reclm.llm.teacher.stage import write_teacher

    if dry_run:
        return write_teacher(settings, dry_run=True)
    with recorded(settings.paths, "teach", engine=settings.teacher.engine) as about:
        teacher = write_teacher(settings)
        if teacher is not None:
            users, items = (teacher.metrics.get(f"select.{kind}", {}).get("profiles", 0) for kind in ("users", "items"))
            _finish(about, teacher, f"example profiles of {users:,} users and {items:,} items")
    return teacher


def base(settings: Settings) -> Artifact:
    """Train the small base model from scratch, or record the pretrained one of `llm.base_model`: artifact `base`."""
    from reclm.llm.models.loading import base_model_name
    from reclm.llm.pipeline import ModelPipeline

    with recorded(settings.paths, "base", model=(name := base_model_name(settings))) as about:
        model = ModelPipeline(settings).base_model()
        size = f", {count:,} parameters" if (count := model.metrics.get("parameters")) else ""
        _finish(about, model, f"base model {name}{size}")
    return model


def tune(settings: Settings) -> Artifact:
    """Tune the base model on two-turn dialogues: artifact `sft`. Needs the artifacts `teacher` and `base`."""
    from reclm.llm.pipeline import ModelPipeline

    with recorded(settings.paths, "tune", turns=settings.tune.turns) as about:
        tuned = ModelPipeline(settings).tuned_model()
        _finish(about, tuned, f"language model tuned on {tuned.metrics['dialogues']:,} dialogues")
    return tuned


def reward(settings: Settings) -> Artifact:
    """Train the model that scores profiles: artifact `reward`. Needs the tuned model."""
    from reclm.llm.pipeline import ModelPipeline

    with recorded(settings.paths, "reward", model=settings.reward.model) as about:
        model = ModelPipeline(settings).reward_model()
        accuracy = model.metrics["accuracy"].get("all")
        found = "" if accuracy is None else f", right about {accuracy:.0%} of held-out pairs"
        _finish(about, model, f"reward model{found}")
    return model


def refine(settings: Settings) -> Artifact:
    """Refine the tuned model by reinforcement learning against the reward model: artifact `refine`."""
    from reclm.llm.pipeline import ModelPipeline

    with recorded(settings.paths, "refine", method=settings.refine.method) as about:
        model = ModelPipeline(settings).refined_model()
        before, after = (model.metrics.get(moment, {}).get("reward") for moment in ("before", "after"))
        found = "" if None in (before, after) else f", held-out reward {before:.2f} before, {after:.2f} after"
        _finish(about, model, f"language model refined by {settings.refine.method}{found}")
    return model


def learn(settings: Settings) -> Settings:
    """Run every stage that trains the writer of profiles, from `teach` to `profiles.model`. Keywords need none of them.

    Returns the settings for the stages that follow: with the keyword engine where there is too little to learn from.
    """
    from reclm.llm.pipeline import has_texts

    engine = settings.profiles.engine
    if engine == "openai" or (engine in LEARNING_ENGINES and has_texts(settings)):
        teach(settings)
    settings = fall_back_to_keywords(settings)
    if settings.profiles.engine in LEARNING_ENGINES:
        base(settings)
        tune(settings)
        if settings.profiles.model == "refined":
            reward(settings)
            refine(settings)
    return settings


def fall_back_to_keywords(settings: Settings) -> Settings:
    """Return the settings, with the keyword engine and a message where a language model has too little to learn from.

    Only reads: no artifact is written and no endpoint is asked.
    """
    from reclm.llm.pipeline import why_no_model

    reason = why_no_model(settings) if settings.profiles.engine in LEARNING_ENGINES else ""
    if not reason:
        return settings
    say(f"no language model is trained: {reason} (profiles.engine=extractive)")
    return settings.model_copy(update={"profiles": settings.profiles.model_copy(update={"engine": "extractive"})})


def profile(settings: Settings, *, full: bool = False, items: Literal["all", "new"] = "all") -> Artifact:
    """Write the profiles of all users and items at each snapshot: artifact `profiles`.

    A language model writes only of users and items that are new or changed, with `full` of all. `items="new"` adds the
    profiles of items that have none yet, or another text, and changes nothing else.
    """
    from reclm.generation.stage import write_profiles

    with recorded(settings.paths, "profile", engine=settings.profiles.engine) as about:
        profiles = write_profiles(settings, full=full, items=items)
        about |= profiles.metrics
        users, texts = (profiles.metrics.get(f"serve.{kind}", {}) for kind in ("users", "items"))
        made = f"profiles of {users.get('profiles', 0):,} users and {texts.get('profiles', 0):,} items"
        new = profiles.metrics.get("new_items")
        _finish(about, profiles, made if new is None else f"profiles of {new:,} new items")
    return profiles


def embed(settings: Settings) -> Artifact:
    """Encode every distinct profile and item text as a vector: artifact `embeddings`."""
    from reclm.generation.embeddings import write_embeddings

    with recorded(settings.paths, "embed", model=settings.embedding.model) as about:
        embeddings = write_embeddings(settings)
        about |= embeddings.metrics
        texts, new = embeddings.metrics["texts"], embeddings.metrics["new"]
        _finish(about, embeddings, f"vectors of {texts:,} distinct texts" + (f", {new:,} new" if new < texts else ""))
    return embeddings


def publish(settings: Settings, *, rewind: bool = False) -> dict[str, Any]:
    """Check the features and write them to Feast, offline and online. Returns the published version and row counts.

    The vectors of the models in use are written again where the online store has lost them. `rewind` lets an older
    build replace a newer one.
    """
    from reclm.features.fused import restore_online
    from reclm.features.publish import publish as to_feast
    from reclm.promotion.challenger import versions_in_use

    with recorded(settings.paths, "publish", online_store=settings.feast.online_store) as about:
        result = to_feast(settings, rewind=rewind)
        about |= result
        written = sum(view.get("written", 0) for view in result["views"].values())
        about["made"] = f"{len(result['views'])} feature views, {written:,} rows written online"
        about["restored"] = sum(restore_online(settings, version) for version in versions_in_use(settings))
    return result


def train(settings: Settings) -> list[Artifact]:
    """Train each model, variant and seed of the settings: one artifact `backbone` each, from the published features."""
    from reclm.training.stage import train_all

    with recorded(settings.paths, "train", models=",".join(settings.train.models)) as about:
        trained, made = train_all(settings)
        about |= {"artifacts": len(trained), "trained": made, "reused": made == 0}
        others = f" of {len(trained)} models, the others reused" if made < len(trained) else " models"
        about["made"] = f"{made}{others}"
    return trained


def evaluate(settings: Settings, backbones: Sequence[Artifact] | None = None) -> Artifact:
    """Measure the trained models and all baselines on the test slice: artifact `evaluation`.

    `backbones` are the models to measure; None: all finished ones that the settings name.
    """
    from reclm.evaluation.evaluate import evaluate as measure
    from reclm.training.stage import finished_backbones

    backbones = finished_backbones(settings) if backbones is None else backbones
    with recorded(settings.paths, "evaluate", models=len(backbones)) as about:
        return _finish(about, measure(settings, backbones), f"{len(backbones)} models measured beside the baselines")


def promote(settings: Settings, trained: Sequence[Artifact] | None = None, *, approved: bool | None = None) -> Artifact:
    """Decide by the policy whether a trained model becomes champion, and make it so: artifact `promotion`.

    `trained` are the models to decide on; None: all finished ones that the settings name. `approved` is a person's
    answer where one was asked for. A challenger is fitted again as well.
    """
    from reclm.promotion.challenger import refresh
    from reclm.promotion.decisions import decide
    from reclm.training.stage import finished_backbones

    trained = finished_backbones(settings) if trained is None else trained
    with recorded(settings.paths, "promote", models=len(trained)) as about:
        decision = decide(settings, trained, approved=approved)
        refresh(settings, trained)
        return _decided(about, decision)


def promote_by_hand(settings: Settings, version: str, *, reason: str = "") -> Artifact:
    """Make the trained model `version` champion whatever the policy says: artifact `promotion`."""
    from reclm.promotion.decisions import promote_by_hand as choose

    with recorded(settings.paths, "promote", model=version) as about:
        return _decided(about, choose(settings, version, reason=reason))


def rollback(settings: Settings, *, reason: str = "") -> Artifact:
    """Make the champion before the current one champion again: artifact `promotion`."""
    from reclm.promotion.decisions import roll_back

    with recorded(settings.paths, "rollback") as about:
        decision = roll_back(settings, reason=reason)
        about["model"] = decision.metrics["candidate_version"]
        return _decided(about, decision)


def _decided(about: dict[str, Any], decision: Artifact) -> Artifact:
    row = decision.metrics
    about |= {"decision": row["decision"], "reason": row["reason"]}
    model = f"{row['candidate_model']}/{row['candidate_variant']}" if row["candidate_version"] else "no model"
    return _finish(about, decision, f"{model} {row['decision']} by {row['decided_by']}")


def report(settings: Settings) -> Path:
    """Write the report, an HTML page, and return its path."""
    from reclm.evaluation.report.page import write_report

    with recorded(settings.paths, "report") as about:
        about["made"] = (page := write_report(settings)).relative_to(settings.paths.root).as_posix()
    return page


def run(settings: Settings, source: Path | None, *, on_ingested: Callable[[Settings], None] | None = None) -> Artifact:
    """Run every stage, from a log to a champion and a report. Returns the artifact `evaluation`.

    `on_ingested` is called once the data has landed: the command line says there how long the rest will take.
    """
    with one_at_a_time(settings.paths):
        ingest(settings, source)
        if on_ingested is not None:
            on_ingested(settings)
        build(settings, "features")
        settings = learn(settings)
        profile(settings)
        embed(settings)
        build(settings, "profiles")
        publish(settings)
        trained = train(settings)
        evaluation = evaluate(settings, trained)
        promote(settings, trained)
        build(settings, "evaluation")
        report(settings)
    return evaluation


def cold_items(settings: Settings) -> dict[str, Any]:
    """Make new items recommendable without training. Returns `{version, items, missing, added}`.

    Each gets a profile by the engine that wrote the others, a vector of the champion and rows in Feast. One without
    text and profile stays `missing` until features change. Raises WorkspaceError without champion or profiles.
    """
    from reclm.features.publish import is_published
    from reclm.promotion.challenger import versions_in_use
    from reclm.promotion.new_items import candidate_status, place_new_items, were_tried

    build(settings, "features")
    if not is_published(settings.paths):
        profile(settings, items="new")
        embed(settings)
        build(settings, "profiles")
        publish(settings)
    result, *others = [candidate_status(settings, one) for one in versions_in_use(settings) or [""]]
    waiting = [one for one in (result, *others) if one["missing"] and not were_tried(settings, one["version"])]
    if waiting:  # seldom: otherwise the feature store is not even opened
        with recorded(settings.paths, "cold_items") as about:
            for status in waiting:
                status |= place_new_items(settings, status["version"])
            about |= result | {"reused": not result["added"], "made": f"{result['added']:,} new items are candidates"}
    return result


def ablate(settings: Settings, *, reward_of: Path | None = None) -> Artifact:
    """Compare writers of profiles, with the reward model of the workspace `reward_of` tried: artifact `ablation`."""
    from reclm.ablation.arms import with_possible_arms
    from reclm.ablation.run import ablate as compare
    from reclm.llm.pipeline import has_texts

    with (
        one_at_a_time(settings.paths),
        recorded(settings.paths, "ablate", arms=",".join(settings.ablate.arms)) as about,
    ):
        if (settings.ablate.extras or set(settings.ablate.arms) != {"extractive"}) and has_texts(settings):
            teach(settings)  # whether there is enough to learn from is known once the teacher has written
        ablation = compare(with_possible_arms(settings), reward_of=reward_of)
        return _finish(about, ablation, f"{len(settings.ablate.arms)} writers of profiles compared")


def check_health(settings: Settings) -> Artifact:
    """Check data, profiles, vectors and feature store against their bounds: artifact `health`."""
    from reclm.health import checks

    with recorded(settings.paths, "health") as about:
        checked = checks.check_health(settings)
        about |= checked.metrics
        return _finish(about, checked, ", ".join(f"{count} {status}" for status, count in checked.metrics.items()))


def maintain(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Remove artifacts that nothing needs, leftovers of killed runs and old records. A `dry_run` only lists them."""
    from reclm.maintenance.cleanup import maintain as clean_up

    if dry_run:
        return clean_up(settings, dry_run=True)
    with one_at_a_time(settings.paths), recorded(settings.paths, "maintain") as about:
        result = clean_up(settings)
        about |= {key: value for key, value in result.items() if isinstance(value, int | str)}
    return result


def forget(settings: Settings, user_id: str | None) -> dict[str, int]:
    """Remove every row of a user from the workspace and rebuild the warehouse. Returns the removed rows by folder.

    None: of all who were erased, in an older copy. Waits until no stage runs. Raises InputError when no row carries the
    id, and ErasureError, when all else is done, for delivered files that hold it.
    """
    from reclm.maintenance.deliveries import require_no_delivery
    from reclm.maintenance.forget import remove_again, remove_user
    from reclm.warehouse.reading import settings_of_build

    with one_at_a_time(settings.paths), no_stage_running(settings.paths):
        removed = remove_again(settings) if user_id is None else remove_user(settings, user_id)
        build(settings_of_build(settings), force=True)
    require_no_delivery(settings, user_id)
    return removed


def _finish(about: dict[str, Any], artifact: Artifact, made: str) -> Artifact:
    """Record the artifact of a stage run, what it holds in words, and whether it existed before the run began."""
    reused = bool(artifact.manifest["created_at"] < about["began"])
    about |= {"version": artifact.version, "reused": reused, "made": made}
    return artifact
