"""Make the demo shop.

In: settings and a seed. Out: a log, an item table and the true interests of users and items. Users have personas, two
to four interests with weights; items are for one interest of their department and often for a second one elsewhere that
goes with their kind, which no text says. Clicks follow personas, item popularity and novelty; activity is a power law
with many sparse users; late items arrive about when the test slice begins. The truth behind it is kept in
`landing/truth`, so that the faithfulness of profiles can be measured. One seed, one world, on any machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reclm.ingest.demo_text import INTERESTS_EACH, KINDS_EACH, departments, interests, write_items
from reclm.ingest.files import quote_text
from reclm.ingest.landing import Batch, Plan, Table
from reclm.settings.data import DemoSettings
from reclm.settings.tree import Settings
from reclm.storage.artifacts import content_hash

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RECIPE = 2  # raise it when a change here changes the world
LAST_DAY = np.datetime64("2025-06-30T00:00:00", "us")
DRAWS_PER_CHUNK = 2_000_000
OVERDRAW, REPEATS = 1.5, 30.0  # draws per interaction, more for those who have seen much of the shop
SPARSE_USERS = 0.35
NEW_USERS = 0.35
PERSONA_SLOTS = 4
FAVOUR = np.array([2.0, 1.0, 0.5, 0.5])  # the first interest is the strongest, mostly
SECOND_AUDIENCE = 0.5
SAME_DEPARTMENT, ANYTHING = 0.10, 0.15
NOVELTY_SHARE, NOVELTY_DAYS = 0.2, 10.0
LATE_FROM, LATE_TO = 0.89, 0.98


@dataclass(frozen=True)
class Shelf:
    """Items by interest: entries sorted by (shelf, arrival); shelf s is an interest, the last one is the whole shop."""

    item: Ints
    key: Floats
    cumulative: Floats
    first: Ints
    span: float

    def pick(self, shelf: Ints, time: Floats, new: NDArray[np.bool_], draw: Floats) -> Ints:
        """Draw an item per row among those that had arrived, -1 where none had; `new` rows prefer recent arrivals."""
        end = np.searchsorted(self.key, shelf * self.span + time, side="right")
        begin = self.first[shelf]
        recent = np.searchsorted(self.key, shelf * self.span + np.maximum(time - NOVELTY_DAYS, 0), side="left")
        begin = np.where(new & (recent < end), recent, begin)
        low, high = self.cumulative[begin], self.cumulative[end]
        entry = np.searchsorted(self.cumulative, low + draw * (high - low), side="right") - 1
        return np.where(end > begin, self.item[np.clip(entry, begin, np.maximum(end - 1, begin))], -1)

    def shares(self, time: float, n_items: int) -> Floats:
        """Return the probabilities with which `pick` draws each item from each shelf at a time: (n_shelves, n_items).

        All items must have arrived.
        """
        weight, of_shelf = np.diff(self.cumulative), np.floor(self.key / self.span).astype(np.int64)
        recent = weight * (self.key - of_shelf * self.span >= time - NOVELTY_DAYS)
        shares = np.zeros((2, len(self.first), n_items))
        for found, weights in zip(shares, (weight, recent), strict=True):
            np.add.at(found, (of_shelf, self.item), weights)
        total = shares.sum(axis=2, keepdims=True)
        usual, new = shares / np.where(total > 0, total, 1)
        return np.where(total[1] > 0, (1 - NOVELTY_SHARE) * usual + NOVELTY_SHARE * new, usual)


class World:
    """Everything that is drawn at random; nothing is computed before a batch needs it."""

    def __init__(self, demo: DemoSettings, seed: int) -> None:
        self.demo = demo
        self.seed = seed
        self.parameters = {"recipe": RECIPE, "seed": seed, **demo.model_dump()}
        self.n_departments = min(len(departments()), max(2, demo.items // 60))
        self.n_interests = self.n_departments * INTERESTS_EACH

    def rng(self, purpose: str, chunk: int = 0) -> np.random.Generator:
        """Return the random generator of one purpose, independent of what was drawn before."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode()), chunk])

    @cached_property
    def clock(self) -> tuple[Floats, Floats]:
        """Cumulated share of all visits, and the time in days, at each full hour: evenings, week-ends, growth."""
        hours = np.arange(self.demo.days * 24)
        daily = 1.2 + np.sin((hours % 24 - 14) * np.pi / 12)
        weekly = np.where(hours // 24 % 7 >= 5, 1.3, 1.0)
        cumulated = np.concatenate([[0.0], np.cumsum(daily * weekly)])
        return cumulated / cumulated[-1], np.arange(len(hours) + 1) / 24

    def _arrival_shares(self, rng: np.random.Generator, n: int) -> Floats:
        """The share of the clock at which each of n users first visits."""
        return np.where(rng.random(n) < NEW_USERS, rng.random(n) * 0.95, 0.0)

    @cached_property
    def item_arrival(self) -> Floats:
        """Days until an item appears, (n_items,); late ones near the 0.9 quantile of event times."""
        rng, n = self.rng("arrival"), self.demo.items
        order = rng.permutation(n)
        n_late = round(self.demo.late_items * n)
        start = self._arrival_shares(rng, 200_000)
        visits = start + (1 - start) * rng.random(len(start))
        shares = np.zeros(n)
        late, staggered = order[:n_late], order[n_late : n_late + n // 5]
        shares[late] = np.quantile(visits, rng.uniform(LATE_FROM, LATE_TO, len(late)))
        shares[staggered] = rng.uniform(0, 0.85, len(staggered))
        return np.interp(shares, *self.clock)

    @cached_property
    def item_kind(self) -> Ints:
        """department * 10 + kind, (n_items,)."""
        return self.rng("kind").integers(0, self.n_departments * KINDS_EACH, self.demo.items)

    @cached_property
    def item_audience(self) -> Ints:
        """The interests an item is for, (n_items, 2): its department's, and one of another department or -1."""
        rng, department = self.rng("audience"), self.item_kind // KINDS_EACH
        main = department * INTERESTS_EACH + rng.integers(0, INTERESTS_EACH, self.demo.items)
        n_kinds = self.n_departments * KINDS_EACH
        away = (
            rng.integers(INTERESTS_EACH, self.n_interests, n_kinds) + np.arange(n_kinds) // KINDS_EACH * INTERESTS_EACH
        )
        second = np.where(rng.random(n_kinds) < 0.6, away % self.n_interests, -1)
        return np.stack([main, second[self.item_kind]], axis=1)

    @cached_property
    def shelf(self) -> Shelf:
        n, main, second = self.demo.items, self.item_audience[:, 0], self.item_audience[:, 1]
        popularity = self.rng("popularity").lognormal(0, 1.0, n)
        paired = np.flatnonzero(second >= 0)
        item = np.concatenate([np.arange(n), paired, np.arange(n)])
        shelf = np.concatenate([main, second[paired], np.full(n, self.n_interests)])
        weight = np.concatenate([popularity, popularity[paired] * SECOND_AUDIENCE, popularity**1.3])
        span = self.demo.days + 1.0
        key = shelf * span + self.item_arrival[item]
        order = np.argsort(key, kind="stable")
        first = np.searchsorted(key[order], np.arange(self.n_interests + 1) * span)
        return Shelf(item[order], key[order], np.concatenate([[0.0], np.cumsum(weight[order])]), first, span)

    @cached_property
    def user_events(self) -> Ints:
        """Interactions each user should have, (n_users,): a third have 1 to 3, the rest follow a power law."""
        rng, n = self.rng("activity"), self.demo.users
        sparse = rng.random(n) < SPARSE_USERS
        few, wish = rng.integers(1, 4, n), (1 - rng.random(n)) ** (-1 / 1.4)
        most = max(8, self.demo.items // 7)
        low, high = 0.0, 1e6
        for _ in range(60):
            scale = (low + high) / 2
            events = np.where(sparse, few, np.clip(np.rint(scale * wish), 4, most))
            low, high = (scale, high) if events.sum() < self.demo.interactions else (low, scale)
        return events.astype(np.int64)

    @cached_property
    def user_persona(self) -> tuple[Ints, Floats]:
        """Interests (n_users, 4; -1 unused) and their cumulated weights (n_users, 4)."""
        rng, n = self.rng("persona"), self.demo.users
        fashion = rng.permutation(1 / (np.arange(self.n_interests) + 4.0))
        affine = rng.integers(0, self.n_interests, (self.n_interests, 3))
        chosen = np.empty((n, PERSONA_SLOTS), dtype=np.int64)
        chosen[:, 0] = rng.choice(self.n_interests, n, p=fashion / fashion.sum())
        for slot in range(1, PERSONA_SLOTS):
            way, first = rng.random(n), chosen[:, 0]
            neighbour = first // INTERESTS_EACH * INTERESTS_EACH + rng.integers(0, INTERESTS_EACH, n)
            friend = affine[first, rng.integers(0, 3, n)]
            other = rng.choice(self.n_interests, n, p=fashion / fashion.sum())
            chosen[:, slot] = np.where(way < 0.25, neighbour, np.where(way < 0.65, friend, other))
            repeated = (chosen[:, :slot] == chosen[:, slot : slot + 1]).any(axis=1)
            chosen[repeated, slot] = -1
        n_wanted = rng.integers(2, PERSONA_SLOTS + 1, n)
        chosen[np.arange(PERSONA_SLOTS) >= n_wanted[:, None]] = -1
        weights = np.where(chosen >= 0, rng.gamma(2.0, 1.0, chosen.shape) + FAVOUR, 0.0)
        return chosen, np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """User ranges of about DRAWS_PER_CHUNK draws each: bounds of memory, the same on every machine."""
        position = np.cumsum(self._draws(self.user_events)) // DRAWS_PER_CHUNK
        edges = np.flatnonzero(np.diff(position, prepend=-1))
        return list(zip(edges.tolist(), [*edges[1:].tolist(), self.demo.users], strict=True))

    def _draws(self, wanted: Ints) -> Ints:
        return np.ceil(wanted * OVERDRAW + wanted**2 * REPEATS / self.demo.items).astype(np.int64) + 3

    def events(self, chunk: int) -> pa.Table:
        """The interactions of one chunk of users, in time order: user_index, item_index, moment (microseconds)."""
        low, high = self.chunks[chunk]
        rng, wanted = self.rng("events", chunk), self.user_events[low:high]
        user = np.repeat(np.arange(low, high), self._draws(wanted))
        start = self._arrival_shares(rng, high - low)[user - low]
        time = np.interp(start + (1 - start) * rng.random(len(user)), *self.clock)
        item = self.shelf.pick(
            self._shelves(rng, user), time, rng.random(len(user)) < NOVELTY_SHARE, rng.random(len(user))
        )
        kept = _first_distinct(user, item, self.demo.items)
        rank = np.arange(len(kept)) - np.searchsorted(user[kept], user[kept], side="left")
        kept = kept[rank < wanted[user[kept] - low]]
        kept = kept[np.argsort(time[kept], kind="stable")]
        origin = LAST_DAY - np.timedelta64(self.demo.days, "D")
        at = origin.astype(np.int64) + (time[kept] * 86_400).astype(np.int64) * 1_000_000
        return pa.table({"user_index": user[kept], "item_index": item[kept], "moment": at})

    def _shelves(self, rng: np.random.Generator, user: Ints) -> Ints:
        """Draw the shelf of each visit: mostly the persona's interest, else its department or the whole shop."""
        chosen, cumulated = self.user_persona
        slot = (rng.random(len(user))[:, None] >= cumulated[user]).sum(axis=1)
        interest = chosen[user, np.minimum(slot, PERSONA_SLOTS - 1)]
        interest = np.where(interest >= 0, interest, chosen[user, 0])
        way = rng.random(len(user))
        around = interest // INTERESTS_EACH * INTERESTS_EACH + rng.integers(0, INTERESTS_EACH, len(user))
        return np.where(way < ANYTHING, self.n_interests, np.where(way < ANYTHING + SAME_DEPARTMENT, around, interest))

    def preferences(self) -> Floats:
        """Return how likely each user's next visit is to pick each item once the log has ended: (n_users, n_items).

        Rows sum to one. These are the probabilities behind `events`, before what a user has picked already is left out.
        """
        chosen, cumulated = self.user_persona
        weight = np.diff(cumulated, prepend=0.0)
        wanted = np.zeros((self.demo.users, self.n_interests))
        np.add.at(wanted, (np.arange(self.demo.users)[:, None], np.maximum(chosen, 0)), weight)
        around = wanted.reshape(len(wanted), -1, INTERESTS_EACH).mean(axis=2).repeat(INTERESTS_EACH, axis=1)
        shelves = (1 - ANYTHING - SAME_DEPARTMENT) * wanted + SAME_DEPARTMENT * around
        whole_shop = np.full((len(wanted), 1), ANYTHING)
        picks = np.hstack([shelves, whole_shop]) @ self.shelf.shares(float(self.demo.days), self.demo.items)
        return np.asarray(picks / picks.sum(axis=1, keepdims=True))  # an interest without items is drawn again

    def items(self) -> pa.Table:
        """Return the item table; misleading items describe an interest that is not theirs."""
        rng, n, main = self.rng("text"), self.demo.items, self.item_audience[:, 0]
        kind_of_text = rng.random(n)
        missing = kind_of_text < self.demo.missing_texts
        misleading = ~missing & (kind_of_text < self.demo.missing_texts + self.demo.misleading_texts)
        elsewhere = (main + rng.integers(1, self.n_interests, n)) % self.n_interests
        titles, texts, categories = write_items(rng, self.item_kind, np.where(misleading, elsewhere, main), missing)
        before = rng.integers(1, 200, n)
        created = np.where(self.item_arrival > 0, self.item_arrival, -before)
        origin = (LAST_DAY - np.timedelta64(self.demo.days, "D")).astype(np.int64)
        columns = {"item_index": np.arange(n), "title": titles, "text": pa.array(texts, pa.string())}
        at = origin + (created * 86_400).astype(np.int64) * 1_000_000
        return pa.table(columns | {"categories": categories, "moment": at})

    def write_truth(self, con: duckdb.DuckDBPyConnection, folder: Path) -> None:
        """Write user_personas.parquet and item_audience.parquet, strongest interest first."""
        known = interests()[: self.n_interests]
        con.register("known", pa.table({"phrase": [i.phrase for i in known], "identity": [i.identity for i in known]}))
        chosen, cumulated = self.user_persona
        order = np.argsort(-np.diff(cumulated, prepend=0.0), axis=1, kind="stable")
        for name, entity, ids, wanted, columns in (
            (
                "user_personas",
                "user_id",
                self.user_id_sql,
                np.take_along_axis(chosen, order, axis=1),
                ("interests", "identity"),
            ),
            ("item_audience", "item_id", self.item_id_sql, self.item_audience, ("interests", "personas")),
        ):
            lists = pa.FixedSizeListArray.from_arrays(wanted.ravel(), wanted.shape[1])
            index = pa.array(np.arange(len(wanted)))
            con.register("truth", pa.table({f"{entity[:4]}_index": index, "wanted": lists}))
            query = (
                f"with names as (select list(phrase) as phrases, list(identity) as identities from known) "
                f"select {ids} as {entity}, "
                f"list_transform(list_filter(wanted, lambda x: x >= 0), lambda x: phrases[x + 1]) as {columns[0]}, "
                f"list_transform(list_filter(wanted, lambda x: x >= 0), lambda x: identities[x + 1]) as {columns[1]} "
                "from truth, names"
            )
            con.execute(
                f"copy ({query}) to {quote_text(str(folder / f'{name}.parquet'))} (format parquet, compression zstd)"
            ).fetchall()
            con.unregister("truth")
        con.unregister("known")

    @property
    def user_id_sql(self) -> str:
        return _id_sql("u", "user_index", self.demo.users)

    @property
    def item_id_sql(self) -> str:
        return _id_sql("i", "item_index", self.demo.items)


def _id_sql(letter: str, column: str, n: int) -> str:
    return f"'{letter}' || lpad({column}::varchar, {max(5, len(str(n - 1)))}, '0')"


def _first_distinct(user: Ints, item: Ints, n_items: int) -> Ints:
    """Return the positions, ascending, of the first draw of each (user, item); draws without an item are left out."""
    position = np.flatnonzero(item >= 0)
    _, first = np.unique(user[position] * n_items + item[position], return_index=True)
    return position[np.sort(first)]


@dataclass(frozen=True)
class WorldRows:
    """One piece of the world, computed when it is landed."""

    world: World
    piece: str
    make: Callable[[], pa.Table]
    name: str = "demo"

    @property
    def content(self) -> str:
        return content_hash({"piece": self.piece, **self.world.parameters}, length=64)

    @property
    def reading(self) -> dict[str, Any]:
        return {"kind": "demo"}

    def register(self, con: duckdb.DuckDBPyConnection) -> str:
        con.register("demo_rows", self.make())
        return "demo_rows"


def plan(settings: Settings) -> Plan:
    """Plan the demo shop of `settings.demo` and `settings.seed`: its items, its log in chunks, and its truth."""
    world = World(settings.demo, settings.seed)
    at = "strftime(make_timestamp(moment), '%Y-%m-%dT%H:%M:%SZ')"
    texts = {
        "item_id": world.item_id_sql,
        "title": "title",
        "text": "text",
        "categories": "categories",
        "created_ts": at,
    }
    clicks = {"user_id": world.user_id_sql, "item_id": world.item_id_sql, "event_ts": at}

    def batch(table: Table, piece: str, make: Callable[[], pa.Table], columns: dict[str, str]) -> Batch:
        return Batch(table, WorldRows(world, piece, make), columns)

    log = [
        batch("interactions", f"events-{chunk}", lambda chunk=chunk: world.events(chunk), clicks)  # type: ignore[misc]
        for chunk in range(len(world.chunks))
    ]
    return Plan("temporal", [batch("items", "items", world.items, texts), *log], world.write_truth)
