"""Logs as strangers bring them first: users and items, perhaps times or ratings, and no item texts.

Each function writes one shape of log below a folder and returns what `reclm run --data` is given. Users like the items
of one of three groups, so that there is something to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

GROUPS = 3
HEADER = "user_id,item_id"


def picks(n_users: int, n_items: int, each: int) -> list[tuple[int, int]]:
    """(user, item), mostly of the user's group, each pair once, in a random order."""
    rng, group_size = np.random.default_rng(1), n_items // GROUPS
    pairs = {
        (user, int(user % GROUPS * group_size + item))
        for user in range(n_users)
        for item in rng.choice(group_size, each, replace=False)
    }
    pairs |= {(user, int(rng.integers(n_items))) for user in range(n_users)}
    ordered = sorted(pairs)
    return [ordered[row] for row in rng.permutation(len(ordered))]


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]] | Iterator[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def two_columns(folder: Path) -> Path:
    return write_csv(folder / "log.csv", HEADER, [(f"u{u}", f"i{i}") for u, i in picks(60, 45, 7)])


def with_times(folder: Path) -> Path:
    rows = [(u, i, 1_700_000_000 + 3_600 * moment) for moment, (u, i) in enumerate(picks(60, 45, 7))]
    return write_csv(folder / "log.csv", f"{HEADER},event_ts", rows)


def with_ratings(folder: Path) -> Path:
    rows = [(u, i, 5 if i // 15 == u % GROUPS else 2) for u, i in picks(60, 45, 7)]
    return write_csv(folder / "log.csv", f"{HEADER},rating", rows)


def few_users(folder: Path) -> Path:
    """Too few to compare models: 9 users, 36 interactions."""
    return write_csv(folder / "log.csv", HEADER, picks(9, 15, 3))


def items_without_texts(folder: Path) -> Path:
    """An item table that holds ids and empty titles."""
    write_csv(folder / "items.csv", "item_id,title", [(f"i{i}", "") for i in range(45)])
    return two_columns(folder).parent


def pre_split(folder: Path) -> Path:
    """The split label is a column; no item table."""
    labels = ("train", "train", "train", "train", "train", "valid", "test")
    rows = [(u, i, labels[place % len(labels)]) for place, (u, i) in enumerate(picks(60, 45, 7))]
    return write_csv(folder / "log.csv", f"{HEADER},split", rows)


def six_rows(folder: Path) -> Path:
    """Nothing can be measured on these."""
    return write_csv(folder / "log.csv", HEADER, [(f"u{row}", f"i{row % 2}") for row in range(6)])


def one_busy_user(folder: Path) -> Path:
    """One user made most of the interactions."""
    busy = [(999, item) for item in range(400)]
    return write_csv(folder / "log.csv", HEADER, [*picks(40, 45, 7), *busy])


SHAPES: tuple[Callable[[Path], Path], ...] = (
    two_columns,
    with_times,
    with_ratings,
    few_users,
    items_without_texts,
    pre_split,
    six_rows,
    one_busy_user,
)
