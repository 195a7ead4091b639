"""The training stage: for each model, variant and seed, choose the epochs on `select`, refit on `final`, keep the result.

Features come from Feast, point-in-time at each snapshot's cut-off; the version of an artifact is the hash of the
settings that matter to it and of the features and tables it learned from. Beside the model lie its loss curve and, from
the model fitted on `select`, what promotion decides by (`evaluation/on_validation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, cast

from reclm.dataset import Variant
from reclm.progress import detail, track
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.training.model import KIND, identity_of, train_one
from reclm.training.pool import Identity, processes, train_in_processes
from reclm.training.snapshots import Snapshots

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def _wanted(settings: Settings) -> list[tuple[str, Variant, int]]:
    return [
        (model, cast(Variant, variant), seed)
        for seed, model, variant in product(settings.train.seeds, settings.train.models, settings.train.variants)
    ]


def finished_backbones(settings: Settings) -> list[Artifact]:
    """The finished artifacts of the models, variants and seeds that the settings name, for the current features."""
    found = []
    for wanted in _wanted(settings):
        parameters, parents = identity_of(settings, *wanted)
        artifact = artifacts.find(settings.paths, KIND, artifacts.version_of(KIND, parameters, parents))
        if artifact is not None:
            found.append(artifact)
    return found


def train_all(settings: Settings) -> tuple[list[Artifact], int]:
    """Every wanted model, trained or found. Returns them and how many had to be trained."""
    from reclm.warehouse.sources import set_current_artifacts

    identities = [identity_of(settings, *one) for one in _wanted(settings)]
    wanted = {artifacts.version_of(KIND, *identity): identity for identity in identities}
    missing = [one for version, one in wanted.items() if artifacts.find(settings.paths, KIND, version) is None]
    for version in track(_trained(settings, missing), "training", len(missing)):
        _tell(artifacts.load(settings.paths, KIND, version))
    finished = [artifacts.load(settings.paths, KIND, version) for version in wanted]
    set_current_artifacts(settings.paths, KIND, list(wanted))
    if not missing:
        detail(f"all {len(finished)} models stand; nothing to train")
    return finished, len(missing)


def _trained(settings: Settings, missing: Sequence[Identity]) -> Iterator[str]:
    jobs = processes(settings, len(missing))
    if jobs > 1:
        yield from train_in_processes(settings, jobs, missing)
    elif missing:
        snapshots = Snapshots(settings, missing[0][1])
        for identity in missing:
            yield train_one(settings, snapshots, *identity)


def _tell(artifact: Artifact) -> None:
    parameters, metrics = artifact.manifest["parameters"], artifact.metrics
    shown = ", ".join(
        f"{setting} {value:.4f} (epoch {metrics['epochs'].get(setting)})"
        for setting, value in metrics["validation"].items()
        if value is not None
    )
    detail(
        f"{parameters['model']}/{parameters['variant']} seed {parameters['seed']}: "
        f"valid NDCG@20 {shown or 'not measurable'}; {artifact.manifest['seconds']:.1f} s"
    )
