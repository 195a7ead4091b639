"""Run the ablation: compare the profiles of all writers on the same backbones, seeds and test slice.

In: the published features and the language model pipeline. Out: one `ablation` artifact with `results`, `diagnostics`
and plots. Every arm is compared with no profiles and with shuffled ones. Training data and tasks are read once; only
the profile vectors are replaced. Finished cells are kept at once, so that a killed ablation continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.ablation import diagnostics, table
from reclm.ablation.arms import Arm, ArmOutput, chosen_arms, make_arm, overridden, with_profiles
from reclm.ablation.cells import (
    FOLDER,
    NO_ARM,
    Cell,
    Data,
    FinishedCell,
    cell_name,
    earlier_ablations,
    load_finished,
    train_cell,
)
from reclm.evaluation.evaluate import FinalSnapshot
from reclm.progress import detail, say, step, track
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_rows
from reclm.storage.schemas import ABLATION_DIAGNOSTICS, ABLATION_RESULTS
from reclm.training.snapshots import Snapshots, parents_of

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KIND = "ablation"


def plan(settings: Settings) -> list[str]:
    """Return what an ablation would do, as lines to print. Nothing is made."""
    ablation, arms = settings.ablate, chosen_arms(settings)
    cells = len(_cell_keys(settings, arms))
    per_cell, texts_per_second, texts = _earlier_speeds(settings)
    lines = [
        f"arm {arm.name:<18}{arm.stage:<10}{', '.join(arm.variants)}{f'  (extra: {arm.extra})' if arm.extra else ''}"
        for arm in arms
    ]
    lines.append(
        f"{cells} trainings: {', '.join(ablation.models)} x seeds {', '.join(map(str, ablation.seeds))} x "
        f"({sum(len(arm.variants) for arm in arms)} arms and variants + base)"
    )
    if per_cell:
        lines.append(
            f"about {cells * per_cell / 60:.0f} minutes of training, judging by earlier trainings in this workspace"
        )
    if texts_per_second:
        requests = texts * sum(arm.stage != "keywords" for arm in arms)
        lines.append(
            f"about {requests / texts_per_second / 60:.0f} minutes of writing at {texts_per_second:.0f} texts/s; "
            "existing answers are reused"
        )
    return lines


def _earlier_speeds(settings: Settings) -> tuple[float, float, int]:
    """(seconds a training, texts a second, texts an arm) of earlier artifacts; 0 where there is none."""
    trained = list(artifacts.all_of(settings.paths, "backbone"))
    alike = [a for a in trained if a.manifest["parameters"].get("model") in settings.ablate.models] or trained
    per_cell = sum(a.manifest["seconds"] for a in alike) / len(alike) if alike else 0.0
    for artifact in reversed(artifacts.all_of(settings.paths, "profiles")):
        made, seconds = artifact.metrics.get("generated", 0), artifact.manifest["seconds"]
        if made and seconds:
            return per_cell, made / seconds, int(artifact.metrics["distinct_prompts"])
    return per_cell, 0.0, 0


def _cell_keys(settings: Settings, arms: Sequence[Arm]) -> list[tuple[int, str, Arm | None, Any]]:
    """(seed, model, arm, variant) of every cell: all cells of one seed before the next, the base first."""
    columns: list[tuple[Arm | None, Any]] = [(None, "base")]
    columns += [(arm, variant) for arm in arms for variant in arm.variants]
    return [
        (seed, model, arm, variant)
        for seed, model, (arm, variant) in product(settings.ablate.seeds, settings.ablate.models, columns)
    ]


def ablate(settings: Settings, *, reward_of: Path | None = None) -> Artifact:
    """Run the ablation, or reuse the existing one.

    `reward_of` is another workspace, whose reward model is tried on this one. Raises WorkspaceError when features are
    not published, or something that an arm needs is missing.
    """
    from reclm.features.publish import features_version
    from reclm.warehouse.reading import features_fingerprint

    for line in plan(settings):
        say(line)
    other = None if reward_of is None else diagnostics.other_reward(reward_of)
    arms = chosen_arms(settings)
    written = [_write(settings, arm) for arm in track(arms, "writing profiles")]
    parents = {"features": features_version(settings), "warehouse": features_fingerprint(settings.paths)}
    cells = _cells(settings, written, parents)
    parameters = {
        "arms": [one.arm.name for one in written],
        "models": settings.ablate.models,
        "seeds": settings.ablate.seeds,
        "cells": artifacts.content_hash([cell.name for cell in cells]),
        "bootstrap": settings.evaluation.bootstrap,
        "seed": settings.seed,
        "reward_of": "" if other is None else other.version,
    }
    parents |= {f"profiles/{one.arm.name}": one.profiles.version for one in written}
    parents |= {f"{k}/{one.arm.name}": a.version for one in written for k, a in one.models.items()}
    version = artifacts.version_of(KIND, parameters, parents)
    existing = artifacts.find(settings.paths, KIND, version)
    if existing is not None:
        detail(f"reusing ablation {version}: nothing it depends on has changed")
        return existing
    final = FinalSnapshot(settings)
    with artifacts.writing(settings.paths, KIND, parameters, parents, resumable=True) as draft:
        done = run_cells(settings, cells, written, final, draft.path / FOLDER)
        _write_results(settings, done, written, final, other, reward_of, draft)
    return artifacts.load(settings.paths, KIND, version)


def _write(settings: Settings, arm: Arm) -> ArmOutput:
    with step(f"profiles of the arm {arm.name}"):
        return make_arm(settings, arm)


def _cells(settings: Settings, written: Sequence[ArmOutput], parents: dict[str, str]) -> list[Cell]:
    versions = {one.arm.name: one.profiles.version for one in written}
    cells = []
    for seed, model, arm, variant in _cell_keys(settings, [one.arm for one in written]):
        profiles = versions[arm.name] if arm else ""
        name = cell_name(settings, parents, model=model, variant=variant, seed=seed, profiles=profiles)
        cells.append(Cell(model, arm.name if arm else NO_ARM, variant, seed, profiles, name))
    return cells


def run_cells(
    settings: Settings, cells: Sequence[Cell], written: Sequence[ArmOutput], final: FinalSnapshot, folder: Path
) -> list[FinishedCell]:
    """Train the missing cells and return all of them, printing how long the rest will take."""
    snapshots = Snapshots(settings, parents_of(settings))
    earlier = earlier_ablations(settings)
    sources = {one.profiles.version: one.profiles for one in written}
    held: dict[str, Any] = {}

    def data_of(cell: Cell) -> Data:
        def read() -> Any:
            (select, tasks), last = snapshots.select, final.data
            if not cell.profiles:
                return select, tasks, last, final.tasks
            if cell.profiles not in held:
                own = sources[cell.profiles]
                held[cell.profiles] = with_profiles(settings, select, own), with_profiles(settings, last, own)
            mine = held[cell.profiles]
            return mine[0], tasks, mine[1], final.tasks

        return read

    found = {cell.name: load_finished(settings, cell, folder, final.tasks, earlier) for cell in cells}
    missing = sum(done is None for done in found.values())
    say(f"{len(cells) - missing} of {len(cells)} trainings are finished, {missing} to go")
    results, made = [], 0
    for cell in track(cells, "training and ranking"):
        done = found[cell.name]
        if done is None:
            done = train_cell(settings, cell, folder, data_of(cell))
            made += 1
            say(
                f"{made}/{missing} {cell.model} {cell.arm}/{cell.variant} seed {cell.seed}: {done.seconds:.1f} s, "
                f"about {(missing - made) * done.seconds / 60:.1f} minutes to go"
            )
        results.append(done)
    return results


def _write_results(
    settings: Settings,
    done: Sequence[FinishedCell],
    written: Sequence[ArmOutput],
    final: FinalSnapshot,
    other: Artifact | None,
    reward_of: Path | None,
    draft: artifacts.Draft,
) -> None:
    from reclm.evaluation.report.language_plots import ablation as plots_of

    dataset = str(settings.paths.require_dataset()["name"])
    rows = table.result_rows(settings, done, final.tasks, dataset)
    write_rows(draft.path / "results.parquet", rows, ABLATION_RESULTS)
    for plot, name in zip(plots_of(rows), dict.fromkeys(row["setting"] for row in rows), strict=True):
        (draft.path / f"{name}.svg").write_text(str(plot.svg).replace("currentColor", "#555555"))
    write_rows(
        draft.path / "diagnostics.parquet", _diagnose(settings, done, written, final, other), ABLATION_DIAGNOSTICS
    )
    draft.metrics.update(
        cells=len(done),
        seconds_of_cells=round(sum(one.seconds for one in done), 1),
        reward_of="" if reward_of is None else reward_of.name,
    )


def _diagnose(
    settings: Settings,
    done: Sequence[FinishedCell],
    written: Sequence[ArmOutput],
    final: FinalSnapshot,
    other: Artifact | None,
) -> list[dict[str, Any]]:
    from reclm.errors import WorkspaceError
    from reclm.llm.pipeline import ModelPipeline

    rows = diagnostics.of_models(written)
    pipeline = ModelPipeline(overridden(settings, {"tune": {"turns": "two", "masking": True}}))
    judged = [one.models["reward"] for one in written if "reward" in one.models and not one.arm.extra]
    if not judged and any(one.models for one in written):
        try:
            judged = [pipeline.current_model("reward")]
        except WorkspaceError:
            say("there is no reward model, so reward is not compared with gain")
    if judged:
        with step("reward against gain"):
            users = final.ids[0].tolist()
            rows += diagnostics.gain_by_reward(settings, pipeline, judged[0], written, done, final.tasks, users)
    if other is not None:
        with step("the other workspace's reward model on this one's pairs"):
            rows += diagnostics.accuracy_on(settings, pipeline, other, "of_other_workspace")
            if judged:
                rows += diagnostics.accuracy_on(settings, pipeline, judged[0], "own")
    return rows
