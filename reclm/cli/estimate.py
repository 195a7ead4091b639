"""How long a run will take, said before it starts: a few straight lines through times measured on two CPU cores.

Good to a factor of two, which is what a person needs to decide between waiting and choosing fewer models. The sizes
come from the landed row counts, so nothing has to be built first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reclm.llm.models.tiny import token_budget
from reclm.progress import say

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


def _sizes(settings: Settings) -> tuple[int, int, int]:
    """(interactions, users, items) that have been landed."""
    import duckdb

    landing = str(settings.paths.landing)
    with duckdb.connect() as connection:
        interactions, users, logged_items = connection.execute(
            "select count(*), count(distinct user_id), count(distinct item_id) from read_parquet(?)",
            [f"{landing}/interactions/*.parquet"],
        ).fetchall()[0]
        (listed_items,) = connection.execute(
            "select count(*) from read_parquet(?)", [f"{landing}/items/*.parquet"]
        ).fetchall()[0]
    return int(interactions), int(users), max(int(listed_items), int(logged_items))


def estimate(settings: Settings) -> dict[str, float]:
    """Seconds of each part on two CPU cores: `build`, `learn`, `profile`, `publish`, `train`, `evaluate`.

    A language model from elsewhere, or on a GPU, is not known here: `learn` is that of `tiny`.
    """
    interactions, users, items = _sizes(settings)
    trainings = len(settings.train.models) * len(settings.train.variants) * len(settings.train.seeds)
    per_training = 4 + 60 * users * items / 37e6 + 20 * interactions / 5e5
    writes = settings.profiles.engine in ("transformers", "vllm")
    dialogues = users * (1 + settings.tune.sparse_views / 2) + items
    read = token_budget(int(dialogues), settings.llm.tiny_tokens)
    learn = (
        read / 8000
        + settings.tune.epochs * dialogues / 50
        + 60
        + 0.19 * settings.refine.steps * settings.refine.batch_size
    )
    return {
        "build": 25 + 60 * interactions / 5e5,
        "learn": learn if writes else 0.0,
        "profile": 15 + (2 * users + 3 * items) / 190 + (2 * (users + items) / 90 if writes else 0),
        "publish": 20 + (users + 2 * items) / 1500,
        "train": trainings * per_training,
        "evaluate": 15 + trainings * (1 + users / 3000) + 60 * (items / 7400) ** 2,
    }


def announce(settings: Settings) -> None:
    """Says the estimate and how to do less."""
    parts = estimate(settings)
    minutes = sum(parts.values()) / 60
    listed = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in parts.items())
    say(
        f"about {minutes:.0f} minutes on two cores if nothing can be reused ({listed}); "
        "fewer models: --set train.models=lightgcn,als"
    )
