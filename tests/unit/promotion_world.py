"""A workspace with finished models of made-up users, without training, feature store or dbt.

`Shop.model` writes a finished backbone: the metrics of each of `N_USERS` users on the validation slice and the
figures of its lists. The feature store is a list of the versions published into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.promotion import champion, decisions
from reclm.promotion.candidates import SETTING, is_in_first_half
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.files import write_json
from reclm.storage.schemas import VALIDATION
from reclm.training import baselines
from reclm.training.validation import VALIDATION_FILE

N_USERS = 60
CUT_OFF = datetime(2024, 5, 1, tzinfo=UTC)
GOOD_LISTS = {"coverage": 0.5, "popularity_lift": 0.1, "latency_ms": 1.0}


@dataclass
class Shop:
    settings: Settings
    published: list[str] = field(default_factory=list)
    day: str = "monday"
    as_of: datetime = CUT_OFF

    def warehouse(self, interactions: int = 500, parsed: float = 1.0, history: bool = True) -> None:
        """The tables that the policy reads: one row per interaction, items, and the quality of the current profiles.

        Without `history`, users with validation truth have no known interaction.
        """
        path = self.settings.paths.warehouse
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with duckdb.connect(str(path)) as connection:
            connection.execute(
                "create table fct_known_interactions as select 'final' as snapshot, 'user 0' as user_id from range(?) "
                "union all select 'select', ? from range(7)",
                [interactions, "user 0" if history else "somebody else"],
            )
            connection.execute(
                "create table fct_truth as select 'select' as snapshot, ? as setting, 'user 0' as user_id", [SETTING]
            )
            connection.execute("create table dim_items as select 'a text' as full_text from range(9)")
            connection.execute(
                "create table fct_profile_quality as select * from (values "
                "('final', 'user', 'all', 'format', ?::double, true), ('final', 'item', 'all', 'format', 1.0, true), "
                "('final', 'user', '0', 'format', 0.0, true), ('select', 'user', 'all', 'format', 0.0, true), "
                "('final', 'user', 'all', 'distinct', 0.0, true), ('final', 'user', 'all', 'format', 0.0, false)) "
                "as rows (snapshot, kind, severity, metric, value, is_current)",
                [parsed],
            )

    def new_day(self, day: str, *, profiles: bool = True) -> None:
        """Switch to other data, with or without profiles: models made from now on are of that day."""
        self.day = day
        write_json(self.settings.paths.current_build, {"features_fingerprint": day})
        views = {view: {"rows": int(profiles)} for view in ("user_profile", "item_profile")}
        write_json(self.settings.paths.feast / "published.json", {"version": f"features of {day}", "views": views})

    def model(
        self,
        model: str = "ncf",
        variant: str = "augment",
        *,
        value: float = 0.5,
        first: float | None = None,
        seed: int = 1,
        users: int = N_USERS,
        zero_shot: float | None = None,
        spread: float = 0.1,
        **lists: float | None,
    ) -> Artifact:
        """`value` is the mean NDCG over users, whose values are spread evenly around it; Recall is half of NDCG.

        `first` is the mean over the half of the users that candidates are chosen on, where it differs.
        """
        figures = [value, first, users, zero_shot, spread, lists]
        parameters = {"model": model, "variant": variant, "seed": seed, "figures": figures}
        parents = {"features": f"features of {self.day}", "warehouse": self.day}
        each = self.values(value, value if first is None else first, users, spread)
        rows = [(SETTING, f"user {u}", ndcg / 2, ndcg) for u, ndcg in enumerate(each)]
        rows += [("zero_shot", f"user {u}", zero_shot / 2, zero_shot) for u in range(users) if zero_shot is not None]
        with artifacts.writing(self.settings.paths, "backbone", parameters, parents) as draft:
            rows_of_users = [dict(zip(VALIDATION.names, row, strict=True)) for row in rows]
            pq.write_table(pa.Table.from_pylist(rows_of_users, schema=VALIDATION), draft.path / VALIDATION_FILE)
            draft.metrics = {"validation_lists": {SETTING: GOOD_LISTS | lists}, "as_of": self.as_of.isoformat()}
        return artifacts.load(self.settings.paths, "backbone", artifacts.version_of("backbone", parameters, parents))

    def values(self, value: float, first: float, users: int, spread: float) -> np.ndarray:
        """The value of each user, (users,), spread evenly around the mean of each half."""
        in_first = np.array([is_in_first_half(f"user {u}", self.settings.seed) for u in range(users)], bool)
        each = np.zeros(users)
        for half, mean in ((in_first, first), (~in_first, value)):
            each[half] = mean + (np.linspace(-spread, spread, half.sum()) if half.sum() > 1 else 0)
        return each

    def baselines(self, **values: float) -> None:
        """Popularity and EASE as measured on this day's validation slice: the value that every user has."""
        parents = {"features": f"features of {self.day}", "warehouse": self.day}
        with artifacts.writing(
            self.settings.paths, "baselines", baselines.parameters_of(self.settings), parents
        ) as draft:
            for name, value in values.items():
                (draft.path / name).mkdir()
                rows = [(SETTING, f"user {u}", value / 2, value) for u in range(N_USERS)]
                table = pa.Table.from_pylist(
                    [dict(zip(VALIDATION.names, row, strict=True)) for row in rows], VALIDATION
                )
                pq.write_table(table, draft.path / name / VALIDATION_FILE)

    def decide(self, *trained: Artifact, approved: bool | None = None, **policy: Any) -> dict[str, Any]:
        """The row of the decision. `policy` overrides settings of promotion."""
        changed = self.settings.promotion.model_copy(update=policy)
        settings = self.settings.model_copy(update={"promotion": changed})
        return decisions.decide(settings, trained, approved=approved).metrics

    @property
    def champion(self) -> str:
        return str(champion.current(self.settings)["measured"])

    @property
    def history(self) -> list[tuple[str, str]]:
        """(decision, version of its candidate), oldest first."""
        return [(d.metrics["decision"], d.metrics["candidate_version"]) for d in decisions.decisions(self.settings)]


def make_shop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(settings)
    write_json(settings.paths.dataset, {"name": "shop", "batches": []})
    shop.warehouse()
    shop.new_day("monday")
    monkeypatch.setattr(decisions, "refit_on_serve", refit)
    monkeypatch.setattr(
        champion, "publish", lambda settings, served: shop.published.append(served.manifest["parents"]["backbone"])
    )
    return shop


def refit(settings: Settings, model: Artifact) -> Artifact:
    """The artifact `served` of a model, without fitting anything."""
    parameters = {name: model.manifest["parameters"][name] for name in ("model", "variant", "seed")}
    parents = {**model.manifest["parents"], "backbone": model.version}
    version = artifacts.version_of("served", parameters, parents)
    if artifacts.find(settings.paths, "served", version) is None:
        with artifacts.writing(settings.paths, "served", parameters, parents) as draft:
            draft.metrics = {"as_of": CUT_OFF}
    return artifacts.load(settings.paths, "served", version)


def failed(row: dict[str, Any]) -> set[str]:
    """The guards that kept the model out."""
    return {guard["guard"] for guard in row["guards"] if guard["binding"] and not guard["passed"]}
