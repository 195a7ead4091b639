"""Import MIND as Microsoft publishes it: `behaviors.tsv` and `news.tsv`, without headers.

In: a folder with both files. Out: a plan of batches of clicks and news. A click is an impression marked `-1`, at the
impression's time, or an item of the click history. The history carries no times: it ends before the user's first
impression, so each of its clicks is dated one hour further back from there, which keeps the order. The history is a
user's own, repeated on each of their rows; it is taken once.
"""

from __future__ import annotations

from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.landing import Batch, Plan
from reclm.ingest.tables import open_file
from reclm.settings.tree import Settings

BEHAVIORS, NEWS = "behaviors.tsv", "news.tsv"
BEHAVIOR_NAMES = ("impression_id", "user_id", "time", "history", "impressions")
NEWS_NAMES = (
    "item_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
CLICKS = """
    with timed as (
        select *, try_strptime("time", '%m/%d/%Y %I:%M:%S %p') as seen_at from source
    ),
    shown as (
        select reclm_row, user_id, coalesce(strftime(seen_at, '%Y-%m-%dT%H:%M:%SZ'), "time") as event_ts,
            unnest(string_split(impressions, ' ')) as entry
        from timed
    ),
    first_rows as (
        select reclm_row, user_id, seen_at, string_split(history, ' ') as clicked
        from timed
        where history is not null
        qualify row_number() over (partition by user_id order by seen_at, reclm_row) = 1
    ),
    past as (
        select reclm_row, user_id, seen_at, clicked,
            unnest(generate_series(1, len(clicked))) as position
        from first_rows
    )
    select reclm_row, user_id, clicked[position] as item_id,
        strftime(seen_at - to_hours(len(clicked) - position + 1), '%Y-%m-%dT%H:%M:%SZ') as event_ts
    from past
    where clicked[position] <> ''
    union all
    select reclm_row, user_id, left(entry, length(entry) - 2) as item_id, event_ts
    from shown
    where ends_with(entry, '-1')
"""


def plan(settings: Settings, folder: Path) -> Plan:
    """Plan the batches of clicks and news. Raises InputError when one of the two files is missing."""
    for name in (BEHAVIORS, NEWS):
        if not (folder / name).is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) if folder.is_dir() else "no such folder"
            raise InputError(f"{folder} lacks {name}: MIND needs {BEHAVIORS} and {NEWS}; found {found}")
    without_header = {"delimiter": "\t", "quote": "", "header": False, "encoding": "utf-8"}
    log = open_file(settings, folder / BEHAVIORS, names=BEHAVIOR_NAMES, **without_header)
    news = open_file(settings, folder / NEWS, names=NEWS_NAMES, **without_header)
    clicks = {"user_id": "user_id", "item_id": "item_id", "event_ts": "event_ts"}
    categories = "nullif(concat_ws('|', category, subcategory), '')"
    texts = {"item_id": "item_id", "title": "title", "text": "abstract", "categories": categories}
    return Plan("temporal", [Batch("interactions", log, clicks, CLICKS), Batch("items", news, texts)])
