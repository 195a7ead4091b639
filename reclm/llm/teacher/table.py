"""Read a teacher's profiles that were written elsewhere.

In: two parquet files. Out: teacher profiles. `teacher_user_profiles.parquet` has the columns user_id and profile,
`teacher_item_profiles.parquet` item_id and profile. Ids of any type become text; other columns are ignored (RecLM
publishes ChatGPT's answers with their prompts). A profile that does not parse is mapped to the grammar where that is
possible (`normalised`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.dataset import ENTITY_KINDS, SNAPSHOTS, EntityKind
from reclm.errors import InputError
from reclm.llm.teacher.entries import TeacherProfile, sample_ids
from reclm.profiles import grammar
from reclm.profiles.extraction import profile_in
from reclm.storage.schemas import PROFILE_FILES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings


def find_tables(settings: Settings) -> dict[EntityKind, Path]:
    """Return {kind: file} of the teacher's files. Raises InputError when there is none, or a column is missing."""
    folder = Path(settings.teacher.table).expanduser()
    found: dict[EntityKind, Path] = {kind: folder / f"teacher_{PROFILE_FILES[kind]}" for kind in ENTITY_KINDS}
    found = {kind: path for kind, path in found.items() if path.is_file()}
    if not settings.teacher.table or not found:
        raise InputError(
            f"teacher.table = {settings.teacher.table!r} must be a folder that holds "
            f"teacher_{PROFILE_FILES['user']} or teacher_{PROFILE_FILES['item']}; it holds neither"
        )
    for kind, path in found.items():
        missing = {f"{kind}_id", "profile"} - set(pq.read_schema(path).names)
        if missing:
            raise InputError(f"{path} has no column {', '.join(sorted(missing))}; it needs {kind}_id and profile")
    return found


def read_profiles(
    settings: Settings, connection: DuckDBPyConnection, folder: Path
) -> tuple[list[TeacherProfile], dict[str, Any]]:
    """Read the profiles of users and items in the warehouse, for every snapshot: a table has no as-of date."""
    moments = dict(connection.execute("select snapshot, as_of from int_snapshots").fetchall())
    profiles: list[TeacherProfile] = []
    metrics: dict[str, Any] = {}
    for kind, path in find_tables(settings).items():
        ids = {row[0] for row in connection.execute(f"select {kind}_id from dim_{kind}s").fetchall()}
        table = pq.read_table(path, columns=[f"{kind}_id", "profile"]).to_pydict()
        provided = {str(key): text or "" for key, text in zip(table[f"{kind}_id"], table["profile"], strict=True)}
        known = {entity_id: text for entity_id, text in provided.items() if entity_id in ids}
        texts = {entity_id: known[entity_id] for entity_id in sorted(sample_ids(settings, kind, known))}
        metrics[f"{kind}s"] = {
            "provided": len(provided),
            "unknown_ids": len(provided) - len(known),
            **_parse_counts(list(texts.values())),
        }
        profiles += [
            TeacherProfile(kind, snapshot, moments[snapshot], entity_id, normalised(text))
            for snapshot in SNAPSHOTS
            for entity_id, text in texts.items()
        ]
    return profiles, metrics


_PARTS = re.compile(r"identit(?:y|ies)\W*:(?P<identity>.*?)interests?\W*:(?P<interests>.*)", re.IGNORECASE | re.DOTALL)


def normalised(text: str) -> str:
    """Return `text` in the form of the grammar where this needs no invention, else the stripped text.

    A text that holds one profile (`profile_in`) loses only what is around it. In any other text the two labels are
    found in upper or lower case, what follows each is split at commas, semicolons and line ends, brackets and bullets
    are removed, and phrases are cleaned, shortened to the grammar's length and made distinct.
    """
    parsed = grammar.parse(profile_in(text))
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


def _parse_counts(texts: Sequence[str]) -> dict[str, int]:
    """Count the texts, those that parse as they are, and those that parse after `normalised`."""
    return {
        "profiles": len(texts),
        "ok": sum(grammar.parse(text).ok for text in texts),
        "ok_normalised": sum(grammar.parse(normalised(text)).ok for text in texts),
    }
