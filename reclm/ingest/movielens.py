"""Import MovieLens as GroupLens publishes it.

In: a folder of 100K (`u.data`, `u.item`), 1M (`ratings.dat`), latest or 25M (`ratings.csv`). Out: a plan of batches of
likes and films. A rating of `data.min_weight` (4 unless set) or more is a like; lower ones are counted and left out.
Times stay epoch seconds, which staging understands. The 100K and 1M files are Latin-1 and have no header.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reclm.errors import InputError
from reclm.ingest.files import LogFile
from reclm.ingest.landing import Batch, Plan
from reclm.ingest.tables import open_file
from reclm.settings.tree import Settings

LIKE = 4.0
GENRES_100K = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
)
RATING_NAMES = ("user_id", "item_id", "rating", "timestamp")
LAYOUTS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
LIKES = {"user_id": "user_id", "item_id": "item_id", "event_ts": '"timestamp"', "weight": "rating"}
LIKES_CSV = {"user_id": '"userId"', "item_id": '"movieId"', "event_ts": '"timestamp"', "weight": "rating"}
GENRES = "nullif(genres, '(no genres listed)')"
# "GoldenEye (1995)": the year goes to the text, so that a title is a title
TITLE = r"regexp_replace(title, '\s*\(\d{4}\)\s*$', '')"
YEAR = r"nullif(regexp_extract(title, '\((\d{4})\)\s*$', 1), '')"


def layout_of(folder: Path) -> str:
    """Return the name of the log file of the MovieLens layout that the folder has, or ''."""
    return next((log for log, items in LAYOUTS.items() if (folder / log).is_file() and (folder / items).is_file()), "")


def plan(settings: Settings, folder: Path) -> Plan:
    """Plan the batches of likes and films. Raises InputError when the folder has none of the three layouts."""
    log = layout_of(folder)
    if not log:
        wanted = "; ".join(f"{log} and {items}" for log, items in LAYOUTS.items())
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) if folder.is_dir() else "no such folder"
        raise InputError(f"{folder} is no MovieLens folder: looked for {wanted}; found {found}")
    least = LIKE if settings.data.min_weight is None else settings.data.min_weight
    make = {"u.data": _100k, "ratings.dat": _1m, "ratings.csv": _latest}[log]
    return Plan("temporal", make(settings, folder, least))


def _100k(settings: Settings, folder: Path, least: float) -> list[Batch]:
    log = _without_header(settings, folder / "u.data", RATING_NAMES, "\t")
    names = ("item_id", "title", "release_date", "video_release_date", "url", *GENRES_100K.split())
    items = _without_header(settings, folder / "u.item", names, "|")
    genres = ", ".join(
        f"""case when "{name}" = '1' then '{name.replace("'", "''")}' end""" for name in GENRES_100K.split()
    )
    films = {"item_id": "item_id", "title": TITLE, "text": YEAR, "categories": f"nullif(concat_ws('|', {genres}), '')"}
    return [Batch("interactions", log, LIKES, min_weight=least), Batch("items", items, films)]


def _1m(settings: Settings, folder: Path, least: float) -> list[Batch]:
    log = _without_header(settings, folder / "ratings.dat", RATING_NAMES, "::")
    items = _without_header(settings, folder / "movies.dat", ("item_id", "title", "genres"), "::")
    films = {"item_id": "item_id", "title": TITLE, "text": YEAR, "categories": GENRES}
    return [Batch("interactions", log, LIKES, min_weight=least), Batch("items", items, films)]


def _latest(settings: Settings, folder: Path, least: float) -> list[Batch]:
    log, items = (open_file(settings, folder / name) for name in ("ratings.csv", "movies.csv"))
    films = {"item_id": '"movieId"', "title": TITLE, "text": YEAR, "categories": GENRES}
    return [
        Batch(
            "interactions", _with_columns(log, "userId", "movieId", "rating", "timestamp"), LIKES_CSV, min_weight=least
        ),
        Batch("items", _with_columns(items, "movieId", "title", "genres"), films),
    ]


def _without_header(settings: Settings, path: Path, names: Sequence[str], delimiter: str) -> LogFile:
    about = {"names": names, "header": False, "delimiter": delimiter, "quote": "", "encoding": "latin-1"}
    return open_file(settings, path, **about)


def _with_columns(file: LogFile, *names: str) -> LogFile:
    for name in names:
        if name not in file.columns:
            raise InputError(
                f"{file.path} has no column {name!r} (its columns are {', '.join(file.columns)}); "
                "if it is no MovieLens file, set data.importer to columns"
            )
    return file
