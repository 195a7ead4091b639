"""A teacher's profiles that were written elsewhere: two parquet files come in, entries go out.

`teacher_user_profiles.parquet` holds user_id and profile, `teacher_item_profiles.parquet` item_id and profile; ids of any
type become text, other columns are left alone (RecLM publishes ChatGPT's answers so, beside their prompts). Profiles are
read by the grammar; where one does not parse, `normalised` maps it to the grammar or leaves it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.dataset import SNAPSHOTS
from reclm.errors import InputError
from reclm.llm.prompts.messages import Kind
from reclm.llm.teacher.entries import KINDS, TeacherProfile, sample_ids
from reclm.profiles import grammar
from reclm.storage.schemas import PROFILE_FILES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings


def find_tables(settings: Settings) -> dict[Kind, Path]:
    """The teacher's files. Raises InputError when the folder has neither, or a file lacks a column."""
    folder = Path(settings.teacher.table).expanduser()
    found: dict[Kind, Path] = {kind: folder / f"teacher_{PROFILE_FILES[kind]}" for kind in KINDS}
    found = {kind: path for kind, path in found.items() if path.is_file()}
    if not settings.teacher.table or not found:
        raise InputError(
            f"teacher.table = {settings.teacher.table!r} must be a folder that holds teacher_{PROFILE_FILES['user']} or "
            f"teacher_{PROFILE_FILES['item']}; it holds neither"
        )
    for kind, path in found.items():
        missing = {f"{kind}_id", "profile"} - set(pq.read_schema(path).names)
        if missing:
            raise InputError(f"{path} has no column {', '.join(sorted(missing))}; it needs {kind}_id and profile")
    return found


def write_entries(
    settings: Settings, connection: DuckDBPyConnection, folder: Path
) -> tuple[list[TeacherProfile], dict[str, Any]]:
    """The rows whose ids the warehouse knows, at both snapshots: whoever wrote them said nothing of a moment."""
    moments = dict(connection.execute("select snapshot, as_of from int_snapshots").fetchall())
    entries: list[TeacherProfile] = []
    metrics: dict[str, Any] = {}
    for kind, path in find_tables(settings).items():
        ids = {row[0] for row in connection.execute(f"select {kind}_id from dim_{kind}s").fetchall()}
        table = pq.read_table(path, columns=[f"{kind}_id", "profile"]).to_pydict()
        given = {str(entity): text or "" for entity, text in zip(table[f"{kind}_id"], table["profile"], strict=True)}
        known = {entity: text for entity, text in given.items() if entity in ids}
        chosen = sample_ids(settings, kind, known)
        texts = {entity: known[entity] for entity in sorted(chosen)}
        metrics[f"{kind}s"] = {
            "given": len(given),
            "unknown_ids": len(given) - len(known),
            **_obedience(texts.values()),
        }
        entries += [
            TeacherProfile(kind, snapshot, moments[snapshot], entity, normalised(text))
            for snapshot in SNAPSHOTS
            for entity, text in texts.items()
        ]
    return entries, metrics


_PARTS = re.compile(r"identit(?:y|ies)\W*:(?P<identity>.*?)interests?\W*:(?P<interests>.*)", re.IGNORECASE | re.DOTALL)


def normalised(text: str) -> str:
    """`text` in the form of the grammar where it can be had without inventing anything, else as it is, stripped.

    A text that parses loses no more than white space and a full stop at its end. In any other the two labels are looked
    for in whatever case, what follows each is split at commas, semicolons and line ends, brackets and bullets go, and
    phrases are cleaned, cut to the grammar's length and named once.
    """
    parsed = grammar.parse(text)
    if parsed.profile is not None:
        return grammar.render(parsed.profile)
    parts = _PARTS.search(text)
    if parts is None:
        return text.strip()
    found = [grammar.clean_phrases(_pieces(parts[name])) for name in ("identity", "interests")]
    return grammar.render(grammar.Profile(*found)) if all(found) else text.strip()


def _pieces(part: str) -> list[str]:
    part = re.sub(r"\W*users?\W*$", "", part, flags=re.IGNORECASE)
    return [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", piece) for piece in re.split(r"[,;\n]", part)]


def _obedience(texts: Iterable[str]) -> dict[str, int]:
    """How many texts there are, how many parse as they are, and how many after `normalised`."""
    given = list(texts)
    as_given = sum(grammar.parse(text).ok for text in given)
    return {
        "profiles": len(given),
        "ok": as_given,
        "ok_normalised": sum(grammar.parse(normalised(t)).ok for t in given),
    }
