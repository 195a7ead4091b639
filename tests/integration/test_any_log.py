"""Whatever file a log comes in: it is refused in words, or every row of it is accepted, set apart or a repeat.

Draws go through ingest and through the staging models themselves, compiled by dbt once and run by DuckDB.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from integration.drawn_logs import Drawn, logs

from reclm.errors import ReclmError
from reclm.ingest import ingest
from reclm.settings.loading import load
from reclm.settings.tree import Settings
from reclm.warehouse.dbt import run_dbt, target_path
from reclm.warehouse.sources import dbt_project, prepare_sources, write_delivered_items, write_parameters

DRAWS = int(os.environ.get("RECLM_TEST_DRAWS", "60"))
STATUSES = {"accepted", "quarantined", "repeat", "pending", "not_a_like"}


@dataclass(frozen=True)
class Staging:
    """The compiled staging models in their order: they name files relative to the workspace."""

    schema: str
    models: list[tuple[str, str]]

    def judge(self, workspace: Path) -> Counter[tuple[str, str | None]]:
        """Count the rows of the log by status and reason."""
        with closing(duckdb.connect()) as con:
            con.execute("set TimeZone = 'UTC'; set threads = 1; attach ':memory:' as build; use build")
            con.execute(f"set file_search_path = '{workspace}'")
            con.execute(f"create schema if not exists {self.schema}")
            seeds = dbt_project() / "seeds"
            for seed in seeds.glob("*.csv"):
                con.execute(f"create table {self.schema}.{seed.stem} as from read_csv('{seed}', header=true)")
            for relation, sql in self.models:
                con.execute(f"create table {relation} as {sql}")
            rows = con.execute(
                f"select status, reason, count(*) from {self.schema}.base_interactions group by all"
            ).fetchall()
            remedies = con.execute(
                f"select count(*), count(*) filter (remedy is null) from {self.schema}.quarantine_interactions"
            ).fetchall()[0]
        found = Counter({(status, reason): count for status, reason, count in rows})
        set_apart = sum(count for (status, _), count in found.items() if status == "quarantined")
        assert remedies == (set_apart, 0), "each row set apart stands in the quarantine, with its remedy"
        return found


def _settings(root: Path) -> Settings:
    return load([], workspace=root, environment={})


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staging]:
    folder = tmp_path_factory.mktemp("compiled").resolve()
    (folder / "interactions.csv").write_text("user_id,item_id\nu,i\n")
    settings = _settings(folder / "workspace")
    dataset = ingest(settings, folder / "interactions.csv")
    write_parameters(settings, dataset)
    prepare_sources(settings.paths, dataset)
    write_delivered_items(settings.paths, [])
    run_dbt(settings, settings.paths.external / "manual", ["compile", "--select", "path:models/staging"])
    manifest = json.loads((target_path(settings.paths) / "manifest.json").read_text())
    wanted = {
        name: node
        for name, node in manifest["nodes"].items()
        if node["resource_type"] == "model" and "/staging/" in f"/{node['path']}" and node["language"] == "sql"
    }
    ordered: list[str] = []
    while len(ordered) < len(wanted):
        ready = [
            name
            for name, node in wanted.items()
            if name not in ordered and all(p in ordered or p not in wanted for p in node["depends_on"]["nodes"])
        ]
        assert ready
        ordered += ready
    stored = [wanted[name] for name in ordered if wanted[name]["relation_name"]]  # ephemeral ones are inlined
    models = [(node["relation_name"], node["compiled_code"]) for node in stored]
    yield Staging(stored[0]["schema"], models)


class TestAnyLog:
    @pytest.mark.timeout(900 + 2 * DRAWS)
    @settings(
        max_examples=DRAWS,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),  # to explain a failure takes minutes more
        derandomize=DRAWS < 1000,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(drawn=logs())
    def test_is_refused_in_words_or_taken_row_by_row(self, staging: Staging, drawn: Drawn) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder).resolve()
            drawn.write(root / "log")
            settings = _settings(root / "workspace")
            try:
                dataset = ingest(settings, root / "log")
            except ReclmError as error:
                event(f"refused: {' '.join(str(error).replace(str(root), '').split()[:9])}")
                assert "\n" not in str(error) and 30 < len(str(error)) < 1500, str(error)
                assert "interactions" in str(error) or "items" in str(error), str(error)
                assert not settings.paths.dataset.exists()
                assert not drawn.sound, str(error)
                return
            landed = sum(batch["rows"] for batch in dataset["batches"] if batch["table"] == "interactions")
            assert landed == drawn.rows
            write_parameters(settings, dataset)
            prepare_sources(settings.paths, dataset)
            write_delivered_items(settings.paths, [])
            found = staging.judge(settings.paths.root)
            assert {status for status, _ in found} <= STATUSES
            assert sum(found.values()) == drawn.rows
            accepted = found["accepted", None]
            event(f"sound: {drawn.sound}, all accepted: {accepted == drawn.rows}")
            if drawn.sound:
                assert accepted == drawn.rows, found
