"""Settings of the data: the log and its columns, the demo shop, the split, neighbours and prompt tables."""

from __future__ import annotations

import codecs
import math
import re
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from reclm.settings.section import Names, Section, Texts

LOW_RATING = "low_rating"
EVENT_WEIGHTS = {
    "impression": 0.0,
    "click": 1.0,
    "view": 1.0,
    "like": 2.0,
    "cart": 2.0,
    "purchase": 3.0,
    "skip": -1.0,
    "return": -1.0,
    LOW_RATING: -1.0,
}
"""{type of event: its weight}. Above 0: an interaction. Below 0: a dislike. 0: neither."""

NUMBER_FORMS = ("epoch_s", "epoch_ms", "excel")
DIRECTIVES = "aAbBcdfgGHIjmMnpSuUVwWxXyYzZ%"
"""What may follow % in a format of times: what DuckDB's strptime knows."""


class DataSettings(Section):
    """Where a log comes from and how its columns are called."""

    importer: Literal["auto", "columns", "movielens", "mind", "mind_raw", "presplit", "demo"] = Field(
        "auto",
        description="Format of the folder given to ingest: `columns` (any CSV, parquet or JSONL, with the "
        "columns below), `movielens` (100K, 1M, latest, 25M), `mind_raw` (behaviors.tsv and "
        "news.tsv), `mind` (the parquet files that RecLM published), `presplit` (interactions with a "
        "split column), `demo` (the demo shop). `auto` decides by the file names.",
    )
    regime: Literal["dense", "sparse"] = Field(
        "dense",
        description="Which train rows models may learn from: `dense` all of them, `sparse` those marked "
        "in_sparse_train (1 to 5 per user).",
    )
    interactions: str = Field("", description="File name of the log; needed when the folder holds several candidates.")
    items: str = Field(
        "", description="File of the item table; empty: the file whose name begins with `items`, if any."
    )
    users: str = Field(
        "", description="File of the user table; empty: the file whose name begins with `users`, if any."
    )
    header: bool | None = Field(
        None,
        description="Whether the first line of the log names its columns. Not set: it does, unless `columns` is set; a "
        "first line that looks like data is refused.",
    )
    columns: Names = Field(
        (),
        description="Names of the log's columns in the order of the file, for a log without a header line, or, with "
        "`header` true, in place of that line.",
    )
    encoding: str = Field(
        "",
        description="Encoding of text files, such as latin-1, cp1252 or gb18030. Empty: told from each file, and said "
        "when it was assumed.",
    )
    delimiter: str = Field(
        "",
        description="What separates the fields of a text file, such as `;`, `::` or `\\t`. Empty: told from each file.",
    )
    quote: str | None = Field(
        None, description="What quotes fields of a text file; empty: nothing does. Not set: told from each file."
    )
    escape: str | None = Field(
        None,
        description="What stands before a quote within a quoted field: the quote itself, or a backslash. Not set: told "
        "from each file.",
    )
    user_column: str = Field("", description="Column of the user id; empty: user_id, or a usual synonym.")
    item_column: str = Field("", description="Column of the item id; empty: item_id, or a usual synonym.")
    timestamp_column: str = Field(
        "", description="Column of the event time; empty: event_ts, or a usual synonym; a log may have none."
    )
    timestamp_format: Texts = Field(
        (),
        description="Form of times that are not read rightly by themselves: a format of strptime (%d/%m/%Y %H:%M), or "
        f"{', '.join(NUMBER_FORMS[:-1])} or {NUMBER_FORMS[-1]} for numbers; several as a JSON list. Empty, or where it "
        "does not fit: ISO 8601, seconds to nanoseconds since 1970, 20240501, and dates as people write them.",
    )
    time_zone: str = Field(
        "UTC",
        description="Zone of times that name none, such as Europe/Berlin; they are stored as UTC. Of an hour that "
        "comes twice the second is meant.",
    )
    weight_column: str = Field(
        "", description="Column of a rating or weight; empty: weight, or a usual synonym; a log may have none."
    )
    event_column: str = Field(
        "",
        description="Column of the type of event (click, purchase …); empty: event_type, or a usual synonym whose "
        "values are all known types of event.",
    )
    event_weights: Names = Field(
        (),
        description="Weights of event types, as `type=weight`: above 0 an interaction, below 0 a dislike, 0 neither. "
        f"Added to {', '.join(f'{name}={weight:g}' for name, weight in EVENT_WEIGHTS.items())}.",
    )
    answer_days: float = Field(
        7.0,
        gt=0,
        description="Days in which feedback without a request id counts as an answer to the latest impression of "
        "its user and item.",
    )
    title_column: str = Field("", description="Column of an item's title; empty: title, or a usual synonym.")
    text_columns: Names = Field(
        (),
        description="Columns of an item that make its text; empty: every column of text that is not mapped elsewhere. "
        "Numbers, links, dates, flags and codes are left out.",
    )
    categories_column: str = Field(
        "", description="Column of an item's categories; empty: categories, or a usual synonym."
    )
    created_column: str = Field(
        "", description="Column of the time an item appeared; empty: created_ts, or a usual synonym."
    )
    as_of: str = Field(
        "",
        description="As-of of the build, ISO 8601 (UTC unless an offset is given): interactions at or after it "
        "are landed and not yet known. Empty: everything landed is known.",
    )
    min_weight: float | None = Field(
        None,
        description="Smallest weight that counts as a like; a row below it is an event of type low_rating. Set it for "
        "ratings (MovieLens: 4).",
    )

    @field_validator("event_weights")
    @classmethod
    def _weighted(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            name, _, number = entry.partition("=")
            try:
                valid = bool(name.strip()) and math.isfinite(float(number))
            except ValueError:
                valid = False
            if not valid:
                raise ValueError(f"{entry!r} is not of the form type=weight, for example wishlist=1.5")
        return entries

    @field_validator("timestamp_format")
    @classmethod
    def _readable(cls, forms: tuple[str, ...]) -> tuple[str, ...]:
        for form in forms:
            if form in NUMBER_FORMS:
                continue
            unknown = [mark for mark in re.findall(r"%-?(.?)", form) if not mark or mark not in DIRECTIVES]
            if "%" not in form or unknown:
                problem = f"has %{unknown[0]}, which strptime does not know" if unknown else "is no format of strptime"
                raise ValueError(f"{form!r} {problem}; write e.g. %d/%m/%Y %H:%M, or one of {', '.join(NUMBER_FORMS)}")
        return forms

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
            known = name != "localtime"  # the zone of the machine, which no table may depend on
        except (ZoneInfoNotFoundError, ValueError, OSError):
            known = False
        if not known:
            raise ValueError(f"{name!r} is no time zone; write e.g. Europe/Berlin or UTC")
        return name

    @property
    def weight_of_event(self) -> dict[str, float]:
        """Return {type of event: weight}: the defaults with the settings' changes."""
        stated = (entry.partition("=") for entry in self.event_weights)
        return EVENT_WEIGHTS | {name.strip().lower(): float(number) for name, _, number in stated}

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            return codecs.lookup(name).name if name else ""
        except LookupError:
            raise ValueError(f"{name!r} is no encoding; use for example utf-8, latin-1, cp1252 or utf-16") from None

    @field_validator("delimiter")
    @classmethod
    def _unescaped(cls, text: str) -> str:
        text = text.replace("\\t", "\t")
        if len(text.encode()) > 4 or "\n" in text:
            raise ValueError(f"{text!r} cannot separate fields; use 1 to 4 characters, for example ';' or '::'")
        return text

    @field_validator("quote", "escape")
    @classmethod
    def _one_character(cls, text: str | None) -> str | None:
        if text is not None and len(text.encode()) > 1:
            raise ValueError(f"{text!r} is not one character, such as a quote or a backslash")
        return text

    @field_validator("as_of")
    @classmethod
    def _as_utc(cls, text: str) -> str:
        if not text:
            return ""
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


class DemoSettings(Section):
    """The seeded demo world."""

    users: int = Field(1500, ge=10, description="Number of users.")
    items: int = Field(1000, ge=20, description="Number of items.")
    interactions: int = Field(45_000, ge=100, description="Approximate number of interactions.")
    days: int = Field(90, ge=4, description="Number of days that the log covers.")
    late_items: float = Field(
        0.15, ge=0, lt=0.9, description="Share of items that appear so late that they are cold at the test cut-off."
    )
    missing_texts: float = Field(0.05, ge=0, le=1, description="Share of items without a text.")
    misleading_texts: float = Field(
        0.03, ge=0, le=1, description="Share of items whose text describes another kind of item."
    )


class SplitSettings(Section):
    """How history is cut into train, valid and test when the data does not say."""

    train_share: float = Field(
        0.8, gt=0, lt=1, description="Share of the interactions, oldest first, that models are trained on."
    )
    valid_share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the interactions after them that models are selected on; the rest is the test "
        "slice. Where the data comes with splits and no valid slice: share of the train rows to use "
        "as one.",
    )
    zero_shot_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of items held out of training as zero-shot items, besides those first seen after the "
        "cut-off.",
    )
    pseudo_cold_share: float = Field(
        0.2,
        ge=0,
        lt=0.9,
        description="Largest share of train items treated as cold while models are selected: as many as there are cold "
        "items to evaluate on, at least half of this share.",
    )


class FeatureSettings(Section):
    """Neighbourhoods, prompts and activity."""

    neighbours: int = Field(
        20,
        ge=1,
        le=200,
        description="Neighbours kept of each user and of each item. Raise it for large catalogues; it costs "
        "build time.",
    )
    recent_items: int = Field(
        50,
        ge=2,
        description="Most recent items of a user that count for item-item co-occurrence; it bounds the cost of "
        "very active users.",
    )
    prompt_history: int = Field(
        20, ge=1, description="Items of a user kept for prompts, half of them the latest, half the most typical."
    )
    prompt_neighbours: int = Field(5, ge=0, description="Neighbours kept for prompts.")
    max_text_length: int = Field(
        2000, ge=50, description="Characters of an item's text that are used; the rest stays in staging."
    )
