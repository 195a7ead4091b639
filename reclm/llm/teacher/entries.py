"""What every teacher hands over: one entry a profile, and by the same draw of users and items where fewer are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from reclm.llm.engines.answers import GenerationRow
from reclm.llm.prompts.messages import Kind
from reclm.profiles.keywords import KNOWN

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

KINDS: tuple[Kind, ...] = ("user", "item")


@dataclass(frozen=True)
class TeacherProfile:
    """One profile of a teacher as a row of the artifact."""

    kind: Kind
    snapshot: str
    as_of: datetime
    entity_id: str
    profile: str
    flag: str = KNOWN
    row: GenerationRow | None = None


def sample_ids(settings: Settings, kind: Kind, ids: Iterable[str]) -> set[str]:
    """At most `teacher.users` (or `items`) of the ids, drawn by seed; the same ids are drawn whatever else there is."""
    limit = settings.teacher.users if kind == "user" else settings.teacher.items

    def place(entity: str) -> str:
        return hashlib.sha256(f"{settings.seed}:{kind}:{entity}".encode()).hexdigest()

    found = sorted(ids, key=place)
    return set(found[:limit] if limit else found)
