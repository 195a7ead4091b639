"""Make the text of a cell readable: literals are opened, HTML is taken out.

In: one cell. Out: its words as a person would read them (`plain_text`), or the names in it (`names_in`). Files hold
JSON and Python literals (a list of genres, each a dictionary of id and name), HTML entities and tags. A literal gives
its names; without any, every text in it that has a word; numbers, flags and links are left out. `register` makes both
known to DuckDB, by batches of rows.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

PLAIN_TEXT, NAMES = "reclm_plain_text", "reclm_names"
NAME_KEYS = ("name", "title", "label", "value", "text", "word")
"""Keys of a dictionary whose value says what it is; `[{"id": 16, "name": "Animation"}]` is "Animation"."""
LONGEST_LITERAL = 1_000_000
MOST_KEPT = 1 << 14
"""Cells of categories whose names are kept: there are few different ones."""
DEEPEST_LITERAL = 8

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[^\W\d_]{{2}}|[{_UNSPACED}]")
"""Two letters side by side, or one letter of a script that writes words with few: what a text has and a number not."""
FLAGS = frozenset({"true", "false", "yes", "no", "y", "n", "t", "f", "0", "1", "none", "null"})
LINK = re.compile(
    r"\s*(?:(?:https?:)?//\S+|www\.\S+|\S+\.(?:jpe?g|png|gif|webp|svg|bmp|avif|mp4|webm|m3u8|mp3))\s*", re.I
)
_INLINE = "a abbr acronym b bdi bdo big cite code em font i ins kbd label mark q s samp small span strike strong sub "
_INLINE += "sup time tt u var wbr"
_BLOCK = "address article aside audio blockquote body br button caption center col colgroup dd del details div dl dt "
_BLOCK += "fieldset figcaption figure footer form frame h1 h2 h3 h4 h5 h6 head header hr html iframe img input legend "
_BLOCK += "li link main map meta nav noscript object ol optgroup option p param picture pre section select source "
_BLOCK += "style script summary svg table tbody td template textarea tfoot th thead title tr track ul video"
_HIDDEN = re.compile(r"<!--.*?(?:-->|$)|<(script|style)\b[^<>]*>.*?</\1\s*>", re.I | re.S)
_INLINE_TAG, _BLOCK_TAG = (
    re.compile(rf"</?(?:{'|'.join(names.split())})(?:\s[^<>]*)?/?>", re.I) for names in (_INLINE, _BLOCK)
)
_QUOTED = re.compile(r"\s*[ubUB]?(?:'.*'|\".*\")\s*", re.S)


def plain_text(cell: str) -> str:
    """Return the words of a cell: literals opened, entities and tags of HTML taken out; '' when nothing is left."""
    opened = _opened(cell)
    text = cell if opened is None else " ".join(_texts(opened))
    return _without_html(text)


def names_in(cell: str) -> list[str] | None:
    """Return the names in a literal, in order; None when the cell is no list or dictionary."""
    opened = _opened(cell)
    if opened is None:
        return None
    names = (_without_html(name).strip() for name in _leaves(opened))
    return [name for name in names if name and not LINK.fullmatch(name)]


def _opened(cell: str, *, quoted: bool = False) -> Any:
    """Return the list or dictionary that a cell holds as JSON or Python, else None; `quoted` opens texts too."""
    start = cell.lstrip()[:1]
    if (start not in ("[", "{") and not (quoted and _QUOTED.fullmatch(cell))) or len(cell) > LONGEST_LITERAL:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, list | tuple | dict | set | str) else None
    return None


def _leaves(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts in an opened literal: of a dictionary its name, else all its values."""
    if depth > DEEPEST_LITERAL or value is None or isinstance(value, bool | int | float):
        return
    if isinstance(value, dict):
        plain = {str(key).lower(): inner for key, inner in value.items()}
        name = next((plain[key] for key in NAME_KEYS if isinstance(plain.get(key), str) and plain[key].strip()), None)
        for inner in value.values() if name is None else (name,):
            yield from _leaves(inner, depth + 1)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _leaves(inner, depth + 1)
    elif isinstance(value, str):
        opened = _opened(value, quoted=True)
        if isinstance(opened, str) or opened is None:
            yield value if opened is None else opened
        else:
            yield from _leaves(opened, depth + 1)


def is_flag(value: str) -> bool:
    """Return whether a value says yes, no or nothing."""
    return value.lower() in FLAGS


def _texts(value: Any) -> Iterator[str]:
    return (leaf for leaf in _leaves(value) if WORD.search(leaf) and not LINK.fullmatch(leaf) and not is_flag(leaf))


def _without_html(text: str) -> str:
    if "<" not in text and "&" not in text:
        return text
    found = html.unescape(_without_tags(text))
    if found != text:
        found = re.sub(r"[ \t\xa0]+", " ", _without_tags(html.unescape(found))).strip()
    return found


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    return _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", _HIDDEN.sub(" ", text)))


def register(con: duckdb.DuckDBPyConnection) -> None:
    """Make PLAIN_TEXT(text) and NAMES(text), names separated by `|`, functions of a connection.

    Both return text, null where nothing is left.
    """

    @lru_cache(maxsize=MOST_KEPT)
    def names(cell: str) -> str:
        found = names_in(cell)
        if found is None:  # [Comedy, Drama]
            found = [name for part in cell.split(",") if (name := part.strip("[]{}()\"' \t\r\n"))]
        return "|".join(name.replace("|", "/") for name in dict.fromkeys(found))

    for name, function in ((PLAIN_TEXT, plain_text), (NAMES, names)):
        con.create_function(
            name,
            _by_batches(function),
            ["VARCHAR"],
            "VARCHAR",
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,  # the default refuses null as a result
        )


def _by_batches(function: Callable[[str], str]) -> Callable[[pa.ChunkedArray], pa.Array]:
    def apply(cells: pa.ChunkedArray) -> pa.Array:
        return pa.array([function(cell) or None if cell else None for cell in cells.to_pylist()], pa.string())

    return apply
