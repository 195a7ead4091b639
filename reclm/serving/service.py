"""Create the parts of a running service.

In: settings. Out: the objects that answer requests.
"""

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
    """Hold the parts of a running service; `api.create_app` makes and starts them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reloader = IndexReloader(settings)
        self.feature_client = FeatureClient(settings)
        self.recommender = Recommender(self.reloader, self.feature_client, max(settings.runtime.threads, 1) + 1)
        self.search = TextSearch(settings)
        self.keys = ApiKeys(settings.paths)

    def problems(self) -> list[str]:
        """List what does not work at the moment; [] when everything works."""
        found = [self.reloader.problem] if self.reloader.problem else []
        if self.feature_client.breaker.is_open:
            found.append(f"feature store: {self.feature_client.breaker.reason}")
        if self.search.problem:
            found.append(self.search.problem)
        return found
