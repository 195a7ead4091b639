"""Create the parts of a running service.

In: settings. Out: the objects that answer requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reclm.serving.api_keys import ApiKeys
from reclm.serving.event_log import EventLog
from reclm.serving.feature_client import FeatureClient
from reclm.serving.impression_log import ImpressionLog
from reclm.serving.item_lists import ItemLists
from reclm.serving.recent_events import RecentEvents
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
        self.lists = ItemLists(settings.paths)
        threads = max(settings.runtime.threads, 1) + 1
        self.recommender = Recommender(self.reloader, self.feature_client, self.lists, threads)
        self.search = TextSearch(settings)
        self.keys = ApiKeys(settings.paths)
        self.events = EventLog(settings.paths)
        self.recent = RecentEvents(settings)
        self.impressions = ImpressionLog(settings.paths)

    def problems(self, details: bool) -> list[str]:
        """List what does not work at the moment; [] when everything works.

        The `details` hold texts of exceptions, with paths and versions, and are for callers who are known.
        """
        breaker = self.feature_client.breaker
        found = {
            "the newest state of the workspace could not be loaded": self.reloader.problem,
            "the challenger could not be loaded": self.reloader.challenger_problem,
            "the feature store does not answer": breaker.reason if breaker.is_open else "",
            "the text encoder of search could not be loaded": self.search.problem,
        }
        return [f"{what}: {detail}" if details else what for what, detail in found.items() if detail]
