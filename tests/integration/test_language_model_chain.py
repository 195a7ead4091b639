"""The whole pipeline with a tiny but real language model: teacher, base, tuning, reward, PPO, profiles."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from integration import pipeline

from reclm.generation.writer import writer_version
from reclm.llm.pipeline import ModelPipeline
from reclm.llm.prompts.messages import ItemFacts
from reclm.settings.loading import load
from reclm.storage import artifacts
from reclm.storage.files import read_json
from reclm.storage.workspace import Workspace

WRITES = {"base": "base", "tune": "sft", "reward": "reward", "refine": "refine", "profile": "profiles"}
KINDS = ("teacher", "base", "sft", "reward", "refine", "profiles", "embeddings")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("language_model") / "shop"
    pipeline.demo(workspace, *pipeline.LANGUAGE_MODEL)
    return workspace


def newest(workspace: Path, kind: str) -> artifacts.Artifact:
    return artifacts.all_of(Workspace(workspace), kind)[-1]


class TestThePipeline:
    def test_every_model_is_an_artifact_that_names_those_before_it(self, shop: Path) -> None:
        found = {kind: newest(shop, kind) for kind in KINDS}
        for kind, parents in {
            "sft": ("base", "teacher"),
            "reward": ("sft", "teacher"),
            "refine": ("sft", "reward", "teacher"),
            "profiles": ("refine", "teacher"),
            "embeddings": ("profiles",),
        }.items():
            for parent in parents:
                assert found[kind].manifest["parents"][parent] == found[parent].version, (kind, parent)

    def test_every_profile_tells_who_wrote_it_and_to_which_prompt(self, shop: Path) -> None:
        with duckdb.connect(str(Workspace(shop).warehouse), read_only=True) as connection:
            rows = connection.execute(
                "select distinct engine, engine_version, length(prompt_hash), tokens > 0 from fct_user_profiles"
            ).fetchall()
            users, written = connection.execute(
                "select (select count(*) from dim_users), (select count(*) from dim_user_profiles)"
            ).fetchall()[0]
        assert rows == [("transformers", writer_version(newest(shop, "refine")), 64, True)]
        assert users == written

    def test_no_prompt_shows_what_the_teacher_wrote_of_a_held_out_item(self, shop: Path) -> None:
        with duckdb.connect(str(Workspace(shop).warehouse), read_only=True) as connection:
            held_out = {
                row[0]
                for row in connection.execute(
                    "select dialogue_id from fct_user_dialogues where fold = 'held_out'"
                ).fetchall()
            }
            shown_items = connection.execute(
                """
                with neighbours as (
                    select unnest(json_extract_string(neighbours, '$[*].item_id')) as item_id from fct_item_dialogues
                ), held_out as (
                    select item_id, line from fct_item_dialogues where fold = 'held_out'
                )
                select distinct held_out.item_id, held_out.line from held_out inner join neighbours using (item_id)
                """
            ).fetchall()
        trained = set(pq.read_table(newest(shop, "sft").path / "dialogues.parquet")["dialogue_id"].to_pylist())
        assert held_out and trained and not held_out & trained
        models = ModelPipeline(load(flags=[*pipeline.SMALL_SHOP, *pipeline.LANGUAGE_MODEL], workspace=shop))
        lines = {line for item, line in shown_items if models.teacher[1].interests(item)}
        shown = [pair for one in models.dialogues if isinstance(one.facts, ItemFacts) for pair in one.facts.neighbours]
        assert lines & {line for line, _ in shown}
        assert not [interests for line, interests in shown if line in lines and interests]
        assert [interests for _, interests in shown if interests]

    def test_the_report_shows_the_language_model(self, shop: Path) -> None:
        page = Workspace(shop).report.read_text()
        assert "Language model" in page

    def test_running_again_reuses_every_model(self, shop: Path) -> None:
        before = {kind: newest(shop, kind).version for kind in KINDS}
        again = pipeline.demo(shop, *pipeline.LANGUAGE_MODEL)
        for stage in ("base", "tune", "reward", "refine", "profile"):
            assert f"{stage:<11}reused" in again.stderr
        assert {kind: newest(shop, kind).version for kind in KINDS} == before


@pytest.mark.full
class TestTooLittleToLearnFrom:
    def test_the_run_says_so_and_goes_on_with_keywords_and_tune_refuses_before_it_trains(self, tmp_path: Path) -> None:
        little = (*pipeline.LANGUAGE_MODEL, "demo.users=20", "demo.items=40", "demo.interactions=120")
        workspace = tmp_path / "stall"
        done = pipeline.demo(workspace, *little)
        assert "no language model is trained: the teacher wrote of" in done.stderr
        assert newest(workspace, "profiles").manifest["parameters"]["engine"] == "extractive"
        refused = pipeline.reclm("tune", "-w", str(workspace), *pipeline.flags(*little), folder=tmp_path)
        assert refused.returncode != 0 and "bring a longer log" in refused.stderr
        assert not artifacts.all_of(Workspace(workspace), "base")


@pytest.mark.full
class TestKilledAnywhere:
    def test_killed_in_every_stage_then_run_again_gives_the_undisturbed_tables(
        self, shop: Path, tmp_path: Path
    ) -> None:
        victim = tmp_path / "victim"
        undisturbed = pipeline.seconds_of_stages(shop)
        died = {
            stage: pipeline.demo_killed_in(
                stage, victim, undisturbed[stage] * 0.2, *pipeline.LANGUAGE_MODEL, writing=kind
            )
            for stage, kind in WRITES.items()
        }
        assert all(died.values()), died
        pipeline.demo(victim, *pipeline.LANGUAGE_MODEL)
        expected, found = pipeline.tables(shop), pipeline.tables(victim)
        assert set(found) == set(expected)
        assert [name for name in expected if found[name] != expected[name]] == []
        written = artifacts.all_of(Workspace(victim), "profiles")
        assert len(written) == 1
        shards = sorted(written[0].path.glob("generations-*.parquet"))
        hashes = [one for shard in shards for one in pq.read_table(shard)["prompt_hash"].to_pylist()]
        assert len(hashes) == len(set(hashes)) > 0
        assert read_json(Workspace(victim).champion)["model"] == read_json(Workspace(shop).champion)["model"]
