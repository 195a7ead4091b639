"""The training stage: train the models that the settings name and that do not exist yet.

In: published features (from Feast, point-in-time at each snapshot's as-of) and the warehouse. Out: one `backbone`
artifact for each model, variant and seed, and the day's `baselines` beside them. Where there are no profiles, because
the items have no texts or no profile obeys the grammar, the variants with profiles would equal `base`: then `base` is
trained alone. A model that cannot be fitted on the data set is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import product
from typing import TYPE_CHECKING, Any

from reclm.errors import WorkspaceError
from reclm.progress import detail, say, track
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.training.baselines import measure_baselines
from reclm.training.model import KIND, identity_of, train_one
from reclm.training.pool import Identity, is_small, processes, train_in_processes, with_threads
from reclm.training.snapshots import Snapshots

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

SETTING_OF = {
    "model": "train.models",
    "variant": "train.variants",
    "seed": "train.seeds",
    "device": "runtime.device",
    "dtype": "runtime.dtype",
}
"""{parameter of a model: the setting it is from}, where the names differ."""


def finished_backbones(settings: Settings) -> list[Artifact]:
    """Return the finished artifacts of the models that the settings name, for the current features.

    Raises WorkspaceError when there is none, naming the settings that differ from those of the models there are.
    """
    identities = _identities(settings)
    found = [artifacts.find(settings.paths, KIND, version) for version in identities]
    finished = [artifact for artifact in found if artifact is not None]
    if not finished:
        raise WorkspaceError(
            f"{settings.paths.root} has no trained models of these settings and the current features"
            f"{_differences(settings, list(identities.values()))}; `reclm train` trains them"
        )
    return finished


def _differences(settings: Settings, wanted: Sequence[Identity]) -> str:
    """Say in which settings the finished models of the current features differ from the wanted ones, '' without any."""
    of_now = [
        artifact.manifest["parameters"]
        for artifact in artifacts.all_of(settings.paths, KIND)
        if any(artifact.manifest["parents"] == parents for _, parents in wanted)
    ]
    if not of_now:
        return ""
    differing = []
    for key in dict.fromkeys(key for parameters in of_now for key in _flat(parameters)):
        there = {_flat(parameters).get(key) for parameters in of_now}
        asked = {_flat(parameters).get(key) for parameters, _ in wanted}
        if not there & asked:
            shown = (",".join(sorted(map(str, values))) for values in (there, asked))
            differing.append(f"{SETTING_OF.get(key, key)}={next(shown)} there, {next(shown)} here")
    return f" (there are {len(of_now)} of other settings: {'; '.join(differing)})"


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """{`section.name`: value} of a model's parameters."""
    return {
        f"{key}.{name}" if isinstance(value, Mapping) else key: inner
        for key, value in parameters.items()
        for name, inner in (value.items() if isinstance(value, Mapping) else [("", value)])
    }


def train_all(settings: Settings) -> tuple[list[Artifact], int]:
    """Train the missing models and return all of them, with the number of models that were missing."""
    from reclm.warehouse.sources import set_current_artifacts

    if trained_variants(settings) != settings.train.variants:
        say("there are no profiles: models are trained without them, variant base alone")
    for model, reason in left_out_models(settings).items():
        say(f"model {model} left out: it {reason}")
    identities = _identities(settings)
    missing = [one for version, one in identities.items() if artifacts.find(settings.paths, KIND, version) is None]
    for version in track(_train(settings, missing), "training", len(missing)):
        _report(artifacts.load(settings.paths, KIND, version))
    finished = [artifacts.load(settings.paths, KIND, version) for version in identities]
    set_current_artifacts(settings.paths, KIND, list(identities))
    measure_baselines(settings)
    if not missing:
        detail(f"reusing all {len(finished)} models: nothing they depend on has changed")
    return finished, len(missing)


def trained_variants(settings: Settings) -> tuple[str, ...]:
    """Return the variants that are trained on the current features: `base` alone where no profile is published."""
    from reclm.features.publish import has_profiles

    return settings.train.variants if has_profiles(settings) else ("base",)


def _identities(settings: Settings) -> dict[str, Identity]:
    """{version: what identifies the model} of each model, variant and seed that the settings name and data allow."""
    train, left_out = settings.train, left_out_models(settings)
    identities = [
        identity_of(settings, model, variant, seed)
        for seed, model, variant in product(train.seeds, train.models, trained_variants(settings))
        if model not in left_out
    ]
    return {artifacts.version_of(KIND, *identity): identity for identity in identities}


def left_out_models(settings: Settings) -> dict[str, str]:
    """Return {model of the settings that cannot be fitted on this data set: why not}."""
    from reclm.backbones.closed_form import why_not
    from reclm.training.tasks import count_items

    n_items, with_text = count_items(settings)
    reasons = {model: why_not(model, n_items, with_text > 0) for model in settings.train.models}
    return {model: reason for model, reason in reasons.items() if reason is not None}


def _train(settings: Settings, missing: Sequence[Identity]) -> Iterator[str]:
    """Train the missing models, in several processes where that is faster; yield each version when it is finished."""
    from threadpoolctl import threadpool_limits

    from reclm.training.tasks import count_interactions

    if not missing:
        return
    interactions = count_interactions(settings)
    jobs = processes(settings, len(missing), interactions)
    if jobs > 1:
        yield from train_in_processes(settings, jobs, missing)
        return
    small = is_small(len(missing), interactions)
    settings = with_threads(settings, 1) if small else settings
    snapshots = Snapshots(settings, missing[0][1])
    with threadpool_limits(1) if small else nullcontext():
        for identity in missing:
            yield train_one(settings, snapshots, *identity)


def _report(artifact: Artifact) -> None:
    parameters, metrics = artifact.manifest["parameters"], artifact.metrics
    shown = ", ".join(
        f"{setting} {value:.4f} ({_chosen(metrics, setting)})"
        for setting, value in metrics["validation"].items()
        if value is not None
    )
    detail(
        f"{parameters['model']}/{parameters['variant']} seed {parameters['seed']}: "
        f"valid NDCG@20 {shown or 'not measurable'}; {artifact.manifest['seconds']:.1f} s"
    )


def _chosen(metrics: Mapping[str, Any], setting: str) -> str:
    """What validation chose, in words: the epoch of a network, and the options of a model that has some."""
    options = [f"{name} {value:g}" for name, value in metrics["options"].get(setting, {}).items()]
    trained_in_epochs = not metrics["options"].get(setting, {}).keys() - {"prior_weight", "prior_penalty"}
    epoch = [f"epoch {metrics['epochs'].get(setting)}"] if trained_in_epochs else []
    return ", ".join(epoch + options)
