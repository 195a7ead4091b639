"""Load what the service knows about every item besides its vector.

In: item ids, in the order of the index's items. Out: texts and embeddings, one row per item in the same order. Titles
and categories come from the published warehouse, profiles and embeddings from the published features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reclm.profiles import grammar
from reclm.profiles.terms import words_of

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

Matrix = NDArray[np.float32]
PIECE = 500
"""Values turned into Python objects at once: about a millisecond, in which no other thread of the process runs."""


@dataclass(frozen=True)
class ItemCatalogue:
    """Hold texts and embeddings of the items; row i belongs to the index's item i.

    `meaning` (n, dim) is the unit sum of content and profile embeddings, zeros where neither exists; `created` (n,) is
    datetime64[us], NaT where unknown.
    """

    titles: list[str]
    categories: list[tuple[str, ...]]
    created: NDArray[np.datetime64]
    profiles: list[str]
    meaning: Matrix
    _words: dict[int, tuple[frozenset[str], frozenset[str]]] = field(default_factory=dict)

    @cached_property
    def by_category(self) -> dict[str, NDArray[np.int64]]:
        """Map each category, in lower case, to the rows of its items."""
        rows: dict[str, list[int]] = {}
        for row, names in enumerate(self.categories):
            for name in names:
                rows.setdefault(name.casefold(), []).append(row)
        return {name: np.array(found) for name, found in rows.items()}

    def words(self, row: int) -> tuple[frozenset[str], frozenset[str]]:
        """Return (phrases of the item's profile, all words of its profile, categories and title), in lower case."""
        if row not in self._words:
            profile = grammar.parse(self.profiles[row]).profile
            phrases = (
                frozenset(p.casefold() for p in (*profile.interests, *profile.identity)) if profile else frozenset()
            )
            text = " ".join([*phrases, *self.categories[row], self.titles[row]])
            self._words[row] = phrases, frozenset(words_of(text.casefold()))
        return self._words[row]

    def take_words_of(self, earlier: ItemCatalogue) -> None:
        """Take over the words of items whose texts have not changed; the first rows of both must be the same items."""
        for row, words in list(earlier._words.items()):
            mine, theirs = ((of.profiles[row], of.titles[row], of.categories[row]) for of in (self, earlier))
            if mine == theirs:
                self._words[row] = words


def load_catalogue(settings: Settings, item_ids: Sequence[str]) -> ItemCatalogue:
    """Load the catalogue of these items from the published warehouse and features."""
    from reclm.warehouse.reading import connect

    position = {item: row for row, item in enumerate(item_ids)}
    n = len(position)
    titles, created = [""] * n, np.full(n, np.datetime64("NaT", "us"))
    categories: list[tuple[str, ...]] = [()] * n
    with closing(connect(settings)) as connection:
        cursor = connection.execute("select item_id, title, categories, epoch_us(created_ts) from dim_items")
        while batch := cursor.fetchmany(PIECE):
            for item, title, names, made in batch:
                row = position.get(item)
                if row is not None:
                    titles[row], categories[row] = title or "", tuple(names or ())
                    created[row] = np.datetime64("NaT" if made is None else made, "us")
    content, profiles = _published(settings, "item_content", position), _published(settings, "item_profile", position)
    texts = [""] * n
    for row, text in zip(_values(profiles["row"]), _values(profiles["profile"]), strict=True):
        texts[row] = text or ""
    return ItemCatalogue(titles, categories, created, texts, _meaning([content, profiles], n))


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Yield the values of a column, piece by piece."""
    for start in range(0, len(column), PIECE):
        yield from column.slice(start, PIECE).to_pylist()


def _published(settings: Settings, view: str, position: Mapping[str, int]) -> pa.Table:
    """Read a view's newest rows of the items in `position`; the position becomes column `row`."""
    from reclm.features.store import offline_path

    table = pq.read_table(offline_path(settings.paths) / "current" / f"{view}.parquet")
    newest = table.filter(pc.equal(table["as_of"], pc.max(table["as_of"])))
    rows = pa.array([position.get(item) for item in _values(newest["item_id"])], pa.int64())
    return newest.append_column("row", rows).filter(rows.is_valid())


def _meaning(tables: Sequence[pa.Table], n: int) -> Matrix:
    """Return the unit sums (n, dim) of the embeddings in `tables`; zeros where there is none."""
    with_embedding = [table.filter(table["embedding"].is_valid()) for table in tables]
    width = next((len(table["embedding"][0]) for table in with_embedding if table.num_rows), 0)
    sums = np.zeros((n, width), dtype=np.float32)
    for table in with_embedding:
        numbers = table["embedding"].combine_chunks().flatten().to_numpy()
        sums[table["row"].to_numpy()] += numbers.reshape(table.num_rows, width)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(length > 0, length, 1)
