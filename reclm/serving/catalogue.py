"""What the service knows of every item besides its vector: titles and categories from the published warehouse, profiles and
embeddings from the published features. Rows come in by id and go out in the index's order of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.profiles import grammar
from reclm.profiles.terms import words_of

if TYPE_CHECKING:
    from reclm.settings import Settings

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Catalogue:
    """Row i speaks of the index's item i. `meaning` (n, dim) is a unit vector of what an item is and whom it is for, zeros
    where neither is known; `created` (n,) is datetime64[us], NaT where unknown."""

    titles: list[str]
    categories: list[tuple[str, ...]]
    created: NDArray[np.datetime64]
    profiles: list[str]
    meaning: Matrix

    @cached_property
    def by_category(self) -> dict[str, NDArray[np.int64]]:
        """{category in lower case: rows of its items}."""
        rows: dict[str, list[int]] = {}
        for row, names in enumerate(self.categories):
            for name in names:
                rows.setdefault(name.casefold(), []).append(row)
        return {name: np.array(found) for name, found in rows.items()}

    @cached_property
    def _words(self) -> dict[int, tuple[frozenset[str], frozenset[str]]]:
        return {}

    def words(self, row: int) -> tuple[frozenset[str], frozenset[str]]:
        """(interest phrases of the item's profile, all words of its profile, categories and title), in lower case."""
        if row not in self._words:
            profile = grammar.parse(self.profiles[row]).profile
            phrases = (
                frozenset(p.casefold() for p in (*profile.interests, *profile.identity)) if profile else frozenset()
            )
            text = " ".join([*phrases, *self.categories[row], self.titles[row]])
            self._words[row] = phrases, frozenset(words_of(text.casefold()))
        return self._words[row]


def load(settings: Settings, item_ids: Sequence[str]) -> Catalogue:
    """The catalogue of these items, from what is published now."""
    from reclm import warehouse
    from reclm.features.store import offline_path

    position = {item: row for row, item in enumerate(item_ids)}
    n = len(position)
    titles, created = [""] * n, np.full(n, np.datetime64("NaT", "us"))
    categories: list[tuple[str, ...]] = [()] * n
    with closing(warehouse.connect(settings)) as connection:
        about = connection.execute("select item_id, title, categories, epoch_us(created_ts) from dim_items")
        while batch := about.fetchmany(10_000):
            for item, title, names, made in batch:
                row = position.get(item)
                if row is not None:
                    titles[row], categories[row] = title or "", tuple(names or ())
                    created[row] = np.datetime64("NaT" if made is None else made, "us")
    folder = offline_path(settings.paths) / "current"
    profiles, vectors = [""] * n, None
    for view in ("item_content", "item_profile"):
        if not (folder / f"{view}.parquet").exists():
            continue
        texts = "profile" if view == "item_profile" else "title"
        table = pq.read_table(folder / f"{view}.parquet", columns=["item_id", "as_of", texts, "embedding"])
        newest = table.filter(pc.equal(table["as_of"], pc.max(table["as_of"])))
        rows = np.array([position.get(item, -1) for item in newest["item_id"].to_pylist()], dtype=np.int64)
        if view == "item_profile":
            for row, text in zip(rows.tolist(), newest["profile"].to_pylist(), strict=True):
                if row >= 0:
                    profiles[row] = text or ""
        there = (rows >= 0) & ~newest["embedding"].is_null().to_numpy()
        found = newest["embedding"].filter(newest["embedding"].is_valid()).combine_chunks()
        if len(found):
            numbers = found.flatten().to_numpy().reshape(len(found), -1)
            numbers = numbers[rows[~newest["embedding"].is_null().to_numpy()] >= 0]
            if vectors is None:
                vectors = np.zeros((n, numbers.shape[1]), dtype=np.float32)
            vectors[rows[there]] += numbers
    meaning = np.zeros((n, 0), dtype=np.float32) if vectors is None else vectors
    length = np.linalg.norm(meaning, axis=1, keepdims=True)
    return Catalogue(titles, categories, created, profiles, meaning / np.where(length > 0, length, 1))
