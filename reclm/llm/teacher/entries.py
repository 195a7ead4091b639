"""What every teacher returns: one record per profile, of a sample of users and items where the settings limit them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from reclm.dataset import EntityKind
from reclm.llm.engines.answers import GenerationRow
from reclm.profiles.keywords import KNOWN

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


@dataclass(frozen=True)
class TeacherProfile:
    """One profile of a teacher: a row of the artifact. `answer` is the endpoint's answer that it was made from."""

    kind: EntityKind
    snapshot: str
    as_of: datetime
    entity_id: str
    text: str
    flag: str = KNOWN
    answer: GenerationRow | None = None


def sample_ids(settings: Settings, kind: EntityKind, ids: Iterable[str]) -> set[str]:
    """Return at most `teacher.users` (or `teacher.items`) of the ids, sampled by the seed.

    Each id has a fixed rank, so adding other ids changes the sample as little as possible.
    """
    limit = settings.teacher.users if kind == "user" else settings.teacher.items

    def rank(entity_id: str) -> str:
        return hashlib.sha256(f"{settings.seed}:{kind}:{entity_id}".encode()).hexdigest()

    ranked = sorted(ids, key=rank)
    return set(ranked[:limit] if limit else ranked)
