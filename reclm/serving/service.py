"""The parts of a running service: settings come in, the objects that answer requests and their problems go out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reclm.serving.api_keys import ApiKeys
from reclm.serving.feature_client import FeatureClient
from reclm.serving.recommender import Recommender
from reclm.serving.reloading import IndexReloader
from reclm.serving.text_search import TextSearch

if TYPE_CHECKING:
    from reclm.settings.tree import Settings


class Service:
    """The parts of a running service, made by `create` and started with the application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reloader = IndexReloader(settings)
        self.feature_client = FeatureClient(settings)
        self.recommender = Recommender(self.reloader, self.feature_client, max(settings.runtime.threads, 1) + 1)
        self.search = TextSearch(settings)
        self.keys = ApiKeys(settings.paths)

    def problems(self) -> list[str]:
        """What does not work just now; [] when all does."""
        found = [self.reloader.problem] if self.reloader.problem else []
        if self.feature_client.breaker.away:
            found.append(f"feature store: {self.feature_client.breaker.reason}")
        if self.search.problem:
            found.append(self.search.problem)
        return found
