"""Load what the service knows about every item besides its vector.

In: item ids, in the order of the index's items. Out: texts and embeddings, one row per item in the same order. Titles
and categories come from the published warehouse, profiles and embeddings from the published features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

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

    `meaning` (n, dim) is the unit sum of content and profile embeddings, zeros where neither exists. Its first
    `sentence_width` columns are those of the sentence encoder; where a language model reads item texts, what it makes
    of them follows. `created` (n,) is datetime64[us], NaT where unknown.
    """

    titles: list[str]
    categories: list[tuple[str, ...]]
    created: NDArray[np.datetime64]
    profiles: list[str]
    meaning: Matrix
    sentence_width: int = 0
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
    from reclm.features.publish import sentence_width
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
    texts, sums = [""] * n, np.zeros((n, 0), dtype=np.float32)
    for batch, rows in _published(settings, "item_content", ["embedding"], position):
        sums = _added(sums, batch, rows)
    width = sentence_width(settings)
    if sums.shape[1] > width:  # beside a reading the sentence vector is shorter: text and profile count alike
        sums = _unit_in(sums, width)
    for batch, rows in _published(settings, "item_profile", ["embedding", "profile"], position):
        sums = _added(sums, batch, rows)
        for row, text in zip(rows.tolist(), batch["profile"].to_pylist(), strict=True):
            texts[row] = text or ""
    return ItemCatalogue(titles, categories, created, texts, _unit_in(sums, sums.shape[1]), width)


def _unit_in(rows: Matrix, width: int) -> Matrix:
    """Scale rows so that their first `width` columns have length one; rows of zeros there stay as they are."""
    length = np.linalg.norm(rows[:, :width], axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)


def _published(
    settings: Settings, view: str, columns: Sequence[str], position: Mapping[str, int]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
    """Yield a view's newest rows of the items in `position`, piece by piece, each with the items' positions.

    One thread reads, so that the requests have the other cores.
    """
    from reclm.features.store import offline_path

    file = pq.ParquetFile(offline_path(settings.paths) / "current" / f"{view}.parquet")
    newest = pc.max(file.read(["as_of"], use_threads=False)["as_of"])
    for batch in file.iter_batches(PIECE, columns=["item_id", "as_of", *columns], use_threads=False):
        rows = pa.array([position.get(item) for item in batch["item_id"].to_pylist()], pa.int64())
        wanted = pc.and_(pc.equal(batch["as_of"], newest), rows.is_valid())
        yield batch.filter(wanted), rows.filter(wanted).to_numpy(zero_copy_only=False)


def _added(sums: Matrix, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> Matrix:
    """Add the embeddings of a piece to `sums` (n, dim), which is widened where they have more columns.

    Where a language model reads item texts, what it makes of them are further columns after the sentence vector's.
    """
    there = batch["embedding"].is_valid().to_numpy(zero_copy_only=False)
    numbers = batch["embedding"].drop_null().flatten().to_numpy()
    if not len(numbers):
        return sums
    width = len(numbers) // int(there.sum())
    if sums.shape[1] < width:
        sums = np.pad(sums, ((0, 0), (0, width - sums.shape[1])))
    sums[rows[there], :width] += numbers.reshape(-1, width)
    return sums
