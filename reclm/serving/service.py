"""The parts of a running service: settings come in, the objects that answer requests and their problems go out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reclm.serving.holder import Holder
from reclm.serving.keys import Keys
from reclm.serving.lookup import Lookup
from reclm.serving.recommender import Recommender
from reclm.serving.search import Search

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


class Service:
    """The parts of a running service, made by `create` and started with the application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.holder = Holder(settings)
        self.lookup = Lookup(settings)
        self.recommender = Recommender(self.holder, self.lookup, max(settings.runtime.threads, 1) + 1)
        self.search = Search(settings)
        self.keys = Keys(settings.paths)

    def problems(self) -> list[str]:
        """What does not work just now; [] when all does."""
        found = [self.holder.problem] if self.holder.problem else []
        if self.lookup.breaker.away:
            found.append(f"feature store: {self.lookup.breaker.reason}")
        if self.search.problem:
            found.append(self.search.problem)
        return found
