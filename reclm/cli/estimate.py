"""Estimate how long a run will take, before anything starts.

In: the landed rows and the settings. Out: seconds of each part. Each part is a straight line in the sizes of the data,
measured on a reference machine (two CPU cores). A short probe measures how fast this machine is now, and all lines are
scaled by it. To measure the lines again after a run: `python -m reclm.cli.estimate WORKSPACE` prints measured and
estimated seconds of each part, and the probe's seconds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reclm.progress import say

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

PROBE_SECONDS = 0.027
"""Seconds of `probe` on the reference machine, idle."""
COEFFICIENTS: dict[str, dict[str, float]] = {
    "build": {"once": 62, "interactions": 2e-4},
    "language model": {"tokens": 1.6e-4, "dialogues": 0.034, "pairs": 0.039, "episodes": 0.33},
    "profiles": {"once": 5, "keyword profiles": 0.001, "prompts": 0.0165, "texts": 0.0055, "read": 0.08},
    "publish": {"once": 10, "users": 7e-4, "items": 1.4e-3},
    "evaluation": {"once": 14, "trainings": 0.1, "ranked users": 1e-5, "item pairs": 1.1e-6},
}
"""Seconds per unit of each size (see `sizes_of`) on the reference machine, for every part but `training`."""
TRAINING_SECONDS = {"biasmf": 24, "ncf": 31, "lightgcn": 8.5, "sgl": 10, "simgcl": 20.4, "als": 3.2, "bpr": 4.3}
"""Seconds of one training by one process on the demo shop of 1,500 users, 1,000 items and 45,000 interactions."""
CLOSED_FORM_SECONDS = {"itemknn": 0.24, "ease": 0.55, "kernel": 0.68}
"""Seconds of one closed form by one process with 1,000 items."""
CLOSED_FORM_POWER = 2.7
"""Power of the number of items that closed forms grow with, measured from 1,400 to 7,400 items."""
TRAINING_SHARES = {"once": 0.49, "pairs": 0.29 / 1.5e6, "interactions": 0.22 / 45e3}
"""How a training grows with the data: with users times items (ranking for validation) and with interactions
(epochs)."""
STAGES = {
    "build": ("build",),
    "language model": ("teach", "base", "tune", "reward", "refine"),
    "profiles": ("profile", "embed"),
    "publish": ("publish",),
    "training": ("train",),
    "evaluation": ("evaluate", "promote", "report"),
}
"""The recorded stages of each part."""


@dataclass(frozen=True)
class Landed:
    """How many interactions, users and items have been landed, and whether any item has a text."""

    interactions: int
    users: int
    items: int
    has_texts: bool = True


def count_landed(settings: Settings) -> Landed:
    """Count the landed rows, so that nothing has to be built before an estimate."""
    import duckdb

    landing = str(settings.paths.landing)
    with duckdb.connect() as connection:
        interactions, users, logged_items = connection.execute(
            "select count(*), count(distinct user_id), count(distinct item_id) from read_parquet(?)",
            [f"{landing}/interactions/*.parquet"],
        ).fetchall()[0]
        listed_items, has_texts = connection.execute(
            "select count(distinct item_id), bool_or(coalesce(title, text, categories) is not null) "
            "from read_parquet(?)",
            [f"{landing}/items/*.parquet"],
        ).fetchall()[0]
    return Landed(int(interactions), int(users), max(int(listed_items), int(logged_items)), bool(has_texts))


def sizes_of(settings: Settings, landed: Landed) -> dict[str, float]:
    """Return the sizes that the parts' seconds grow with; those of a language model are 0 where none is trained.

    A language model from elsewhere, or on a GPU, is not known here: `tokens` are those of the small one trained from
    scratch.
    """
    from reclm.backbones.closed_form import why_not
    from reclm.llm.models.tiny import token_budget

    users, items = landed.users, landed.items
    learned = landed.has_texts and settings.profiles.engine in ("transformers", "vllm")
    dialogues = users * (1 + settings.tune.sparse_views / 2) + items
    refine = settings.refine
    trainings = len(_trained_models(settings, landed)) * _trainings_each(settings, landed)
    return {
        "once": 1,
        "interactions": landed.interactions,
        "users": users,
        "items": items,
        "tokens": learned * token_budget(int(dialogues), settings.llm.tiny_tokens),
        "dialogues": learned * settings.tune.epochs * dialogues,
        "pairs": learned * settings.reward.pairs,
        "episodes": learned * refine.steps * refine.batch_size,
        "keyword profiles": (not learned) * 2 * (users + items),
        "prompts": learned * 2 * (users + items),
        "texts": 2 * users + 3 * items,
        "read": bool(settings.embedding.reader) * items,
        "trainings": trainings,
        "ranked users": trainings * users,
        "item pairs": 0 if why_not("ease", items, landed.has_texts) else items**2,
    }


def training_seconds(settings: Settings, landed: Landed) -> float:
    """Return the seconds of all trainings on the reference machine, shared by as many processes as will be used."""
    from reclm.training.pool import processes

    models = _trained_models(settings, landed)
    each = _trainings_each(settings, landed)
    growth = TRAINING_SHARES["once"] + TRAINING_SHARES["pairs"] * landed.users * landed.items
    growth += TRAINING_SHARES["interactions"] * landed.interactions
    closed_forms = (landed.items / 1000) ** CLOSED_FORM_POWER
    slowest = max(TRAINING_SECONDS.values())
    seconds = each * sum(
        closed_forms * CLOSED_FORM_SECONDS[model]
        if model in CLOSED_FORM_SECONDS
        else growth * TRAINING_SECONDS.get(model, slowest)
        for model in models
    )
    return seconds / processes(settings, max(each * len(models), 1), landed.interactions)


def _trained_models(settings: Settings, landed: Landed) -> list[str]:
    """The backbones that can be fitted on such data."""
    from reclm.backbones.closed_form import why_not

    return [model for model in settings.train.models if why_not(model, landed.items, landed.has_texts) is None]


def _trainings_each(settings: Settings, landed: Landed) -> int:
    """How often each backbone is trained: once a variant and seed; without texts there is `base` alone."""
    return (len(settings.train.variants) if landed.has_texts else 1) * len(settings.train.seeds)


def estimate(settings: Settings, speed: float = 1.0) -> dict[str, float]:
    """Return the seconds of each part on a machine that needs `speed` times as long as the reference machine."""
    landed = count_landed(settings)
    sizes = sizes_of(settings, landed)
    parts = {part: sum(seconds * sizes[size] for size, seconds in line.items()) for part, line in COEFFICIENTS.items()}
    parts["training"] = training_seconds(settings, landed)
    return {part: speed * parts[part] for part in STAGES}


def probe() -> float:
    """Return how many seconds a fixed piece of work takes now, in numpy and in Python; the median of three times."""
    import numpy as np

    matrix = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    vector = np.linspace(-1, 1, 65_536, dtype=np.float32)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        state, total = matrix, 0
        for _ in range(20):
            for _ in range(10):
                state = np.tanh(state @ matrix / 8)
            np.sort(np.cos(vector * 999))
        for number in range(200_000):
            total += number % 7
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def announce(settings: Settings) -> None:
    """Say how long the run will take and how to make it shorter."""
    parts = estimate(settings, probe() / PROBE_SECONDS)
    listed = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in parts.items() if seconds)
    say(f"This will take about {_duration(sum(parts.values()))} if nothing can be reused ({listed}).")
    shorter = "fewer models: --set train.models=lightgcn,als"
    if parts["language model"]:
        shorter += "; keywords in place of a language model: --set profiles.engine=extractive"
    say(f"To make it shorter: {shorter}.")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def measured(records: Iterable[Mapping[str, object]]) -> dict[str, float]:
    """Return the seconds of each part in the newest whole run that records of stage runs tell of."""
    seconds = dict.fromkeys(STAGES, 0.0)
    for record in records:
        if record["stage"] == "ingest":
            seconds = dict.fromkeys(STAGES, 0.0)
        for part, stages in STAGES.items():
            if record["stage"] in stages and record["status"] == "done":
                seconds[part] += float(str(record["seconds"]))
    return seconds


def main() -> None:
    """Print measured and estimated seconds of each part of the workspace named on the command line."""
    from reclm.settings.loading import load
    from reclm.storage.runs import history

    settings = load(sys.argv[2:], workspace=Path(sys.argv[1]))
    now, found, expected = probe(), measured(history(settings.paths)), estimate(settings)
    print(f"probe {now:.4f} s, on the reference machine {PROBE_SECONDS:.4f} s: speed {now / PROBE_SECONDS:.2f}")
    print(f"{'part':<16}{'measured':>10}{'estimated':>11}  (both in seconds, the estimate for the reference machine)")
    for part, seconds in found.items():
        print(f"{part:<16}{seconds:>10.1f}{expected[part]:>11.1f}")
    print(f"{'all':<16}{sum(found.values()):>10.1f}{sum(expected.values()):>11.1f}")


if __name__ == "__main__":
    main()
