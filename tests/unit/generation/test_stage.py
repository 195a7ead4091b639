"""The profile stage: the artifact's content, its reuse, and that its bytes do not depend on the day."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llm_world import as_artifact
from stub_engine import Killed, Stub
from unit.generation_world import rows_of, with_model
from unit.profiles_world import HISTORIES, ITEMS, workspace

from reclm.dataset import SNAPSHOTS
from reclm.errors import WorkspaceError
from reclm.generation import stage, writer
from reclm.llm.lineage import newest_model
from reclm.llm.prompts import requests
from reclm.profiles import grammar
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.schemas import PROFILE_QUALITY, profile_schema


class TestArtifact:
    def test_it_holds_one_row_per_snapshot_and_id_sorted_by_id(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, current = workspace(tmp_path, monkeypatch)
        artifact = stage.write_profiles(settings)
        for kind, ids in (("user", HISTORIES), ("item", ITEMS)):
            table = pq.read_table(artifact.path / f"{kind}_profiles.parquet")
            assert table.schema.equals(profile_schema(kind))  # type: ignore[arg-type]
            assert table[f"{kind}_id"].to_pylist() == sorted(ids) * 3
            assert table["snapshot"].to_pylist() == [name for name in SNAPSHOTS for _ in ids]
            assert set(table["version"].to_pylist()) == {artifact.version}
            assert set(table["dataset"].to_pylist()) == {"tiny"}
            assert {str(moment) for moment in table["as_of"].to_pylist()} == {
                "2000-01-02 00:00:00+00:00",
                "2000-01-03 00:00:00+00:00",
                "2000-01-04 00:00:00+00:00",
            }
            for row in table.to_pylist():
                parsed = grammar.parse(row["profile"])
                assert row["parse_status"] == parsed.status
                assert parsed.profile == grammar.Profile(tuple(row["identity"]), tuple(row["interests"]))
        assert current == {"profiles": artifact.version}

    def test_quality_covers_all_snapshots_and_kinds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        table = pq.read_table(stage.write_profiles(settings).path / "quality.parquet")
        assert table.schema.equals(PROFILE_QUALITY)
        rows = table.to_pylist()
        assert {(row["snapshot"], row["kind"]) for row in rows} == {
            (snapshot, kind) for snapshot in SNAPSHOTS for kind in ("user", "item")
        }
        keys = [(row["snapshot"], row["kind"], row["severity"], row["metric"]) for row in rows]
        assert len(set(keys)) == len(keys)
        assert {row["value"] for row in rows if row["metric"] == "format"} == {1.0}

    def test_the_manifest_counts_flags(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        metrics = stage.write_profiles(settings).metrics
        assert metrics["final.users"]["no_history"] == 1
        assert metrics["final.items"]["no_text"] == 1


class TestVersions:
    def test_an_artifact_of_the_same_inputs_is_reused_with_a_message(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings, current = workspace(tmp_path, monkeypatch)
        first = stage.write_profiles(settings)
        monkeypatch.setenv("RECLM_VERBOSE", "1")
        capsys.readouterr()
        assert stage.write_profiles(settings).manifest == first.manifest
        assert "reusing profiles" in capsys.readouterr().err
        assert current == {"profiles": first.version}

    def test_settings_seed_and_warehouse_each_make_another_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        versions = {stage.write_profiles(settings).version}
        versions.add(stage.write_profiles(settings.model_copy(update={"seed": 7})).version)
        fewer = settings.profiles.model_copy(update={"interests": 2})
        versions.add(stage.write_profiles(settings.model_copy(update={"profiles": fewer})).version)
        workspace(tmp_path, monkeypatch, fingerprint="f2")
        versions.add(stage.write_profiles(settings).version)
        assert len(versions) == 4
        assert len(artifacts.all_of(settings.paths, "profiles")) == 4

    def test_two_runs_give_the_same_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written = []
        for name in ("one", "two"):
            settings, _ = workspace(tmp_path / name, monkeypatch)
            path = stage.write_profiles(settings).path
            written.append({file.name: file.read_bytes() for file in path.glob("*.parquet")})
        assert len(written[0]) == 3
        assert written[0] == written[1]


class TestWithoutTexts:
    def test_rows_are_flagged_and_the_engine_says_why(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch, texts=False)
        artifact = stage.write_profiles(settings)
        assert "no texts: profiles are left empty" in capsys.readouterr().err
        table = pq.read_table(artifact.path / "item_profiles.parquet")
        assert set(table["flag"].to_pylist()) == {"no_text"}
        assert set(table["parse_status"].to_pylist()) == {grammar.EMPTY}
        assert pa.compute.all(pa.compute.equal(table["profile"], "")).as_py()


class TestMissingInput:
    def test_without_a_warehouse_the_message_names_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workspace(tmp_path / "other", monkeypatch)
        with pytest.raises(WorkspaceError, match="does not exist"):
            stage.write_profiles(Settings(workspace=tmp_path / "nothing"))


class TestLanguageModel:
    def test_rows_name_their_engine_model_and_prompt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stub = Stub()
        settings, current = with_model(tmp_path, monkeypatch, stub)
        artifact = stage.write_profiles(settings)
        for kind, ids in (("user", HISTORIES), ("item", ITEMS)):
            table = pq.read_table(artifact.path / f"{kind}_profiles.parquet")
            assert table.schema.equals(profile_schema(kind))  # type: ignore[arg-type]
            assert table[f"{kind}_id"].to_pylist() == sorted(ids) * 3
            for row in table.to_pylist():
                assert (row["engine"], row["engine_version"], row["tokens"]) == ("stub", "model-1", 7)
                assert len(row["prompt_hash"]) == 64
                assert row["parse_status"] == grammar.OK
        assert "Burr grinder" in rows_of(artifact, "user", "select")["a"]["profile"]
        assert (artifact.path / "quality.parquet").exists()
        assert current["profiles"] == artifact.version
        assert set(artifact.manifest["parents"]) == {"warehouse", "refine", "teacher"}

    def test_what_a_prompt_says_of_somebody_alone_is_hashed_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed: list[object] = []

        def own_hash(facts: object, _: object) -> str:
            hashed.append(facts)
            return "own"

        for module in (stage, requests):
            monkeypatch.setattr(module, "own_hash", own_hash)
        artifact = stage.write_profiles(with_model(tmp_path, monkeypatch, Stub())[0])
        assert len(hashed) == len(SNAPSHOTS) * (len(HISTORIES) + len(ITEMS))
        assert {row["own_hash"] for row in rows_of(artifact, "user").values()} == {"own"}

    def test_users_and_items_without_facts_get_an_empty_prompt_and_a_flag(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stub = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, stub)
        artifact = stage.write_profiles(settings)
        users, items = rows_of(artifact, "user"), rows_of(artifact, "item")
        assert {user for user, row in users.items() if row["flag"]} == {"new"}
        assert users["new"]["flag"] == "no_history"
        assert {item: row["flag"] for item, row in items.items() if row["flag"]} == {
            "blank": "no_text", "void": "no_text"
        }  # fmt: skip
        assert users["new"]["profile"].startswith("User identity")
        assert items["blank"]["prompt_hash"] == items["void"]["prompt_hash"]
        assert len(stub.requested) == len(set(stub.requested)) == artifact.metrics["generated"]

    def test_only_changed_prompts_are_sent_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = with_model(tmp_path, monkeypatch, Stub())
        first = stage.write_profiles(settings)
        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute("update fct_user_prompts set history = '[{\"line\": \"Piano\"}]' where user_id = 'f'")
        stub = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, stub, fingerprint="f2")
        second = stage.write_profiles(settings)
        assert second.version != first.version
        assert [prompt.splitlines()[0] for prompt in stub.requested] == ["Picked: Piano"]
        assert second.metrics["generated"] == 1
        before, after = rows_of(first, "user"), rows_of(second, "user")
        for user in set(HISTORIES) - {"f"}:
            assert {**before[user], "version": ""} == {**after[user], "version": ""}

    def test_full_sends_every_prompt_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = Stub()
        stage.write_profiles(with_model(tmp_path, monkeypatch, first)[0])
        stub = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, stub)
        stage.write_profiles(settings)
        assert stub.requested == []
        stage.write_profiles(settings, full=True)
        assert sorted(stub.requested) == sorted(first.requested)

    @pytest.mark.parametrize(("kept_step", "again"), [(0, False), (6, True)])
    def test_a_refinement_without_change_reuses_the_tuned_models_answers(
        self, kept_step: int, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, first, kind="sft", profiles={"model": "tuned"})
        tuned = artifacts.all_of(settings.paths, "sft")[0]
        first.model_version = f"sft-{tuned.version}"
        stage.write_profiles(settings)
        with artifacts.writing(settings.paths, "refine", {}, {"sft": tuned.version}) as draft:
            shutil.copytree(tuned.path / "model", draft.path / "model")
            draft.metrics["kept_step"] = kept_step
        stub = Stub()
        settings, _ = with_model(tmp_path, monkeypatch, stub)

        def opened(settings: Settings, folder: str, version: str) -> nullcontext[Stub]:
            stub.model_version = version
            return nullcontext(stub)

        monkeypatch.setattr(writer, "open_engine", opened)
        artifact = stage.write_profiles(settings)
        assert "refine" in artifact.manifest["parents"]
        assert sorted(stub.requested) == (sorted(first.requested) if again else [])

    @pytest.mark.parametrize(
        "change", [{"seed": 9}, {"profiles": {"temperature": 0.5}}, {"llm": {"max_profile_tokens": 32}}]
    )
    def test_other_decoding_shares_no_answers(
        self, change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = Stub()
        stage.write_profiles(with_model(tmp_path, monkeypatch, first)[0])
        stub = Stub()
        stage.write_profiles(with_model(tmp_path, monkeypatch, stub, **change)[0])
        assert sorted(stub.requested) == sorted(first.requested)

    @pytest.mark.parametrize("moment", [0, 3, 9, 14])
    def test_a_killed_run_continues_and_ends_the_same(
        self, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = stage.write_profiles(with_model(tmp_path / "one", monkeypatch, Stub())[0])
        killed, stub = Stub(die_after=moment), Stub()
        with pytest.raises(Killed):
            stage.write_profiles(with_model(tmp_path / "two", monkeypatch, killed)[0])
        ended = stage.write_profiles(with_model(tmp_path / "two", monkeypatch, stub)[0])
        assert ended.version == whole.version
        for name in ("user_profiles.parquet", "item_profiles.parquet", "quality.parquet"):
            assert pq.read_table(ended.path / name).equals(pq.read_table(whole.path / name))
        assert len(stub.requested) == whole.metrics["generated"] - moment // 4 * 4

    def test_an_answer_that_never_parses_is_kept_and_counted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stub = Stub(malformed=dict.fromkeys(["Picked: nothing\nWho is it?"], 99))
        settings, _ = with_model(tmp_path, monkeypatch, stub)
        artifact = stage.write_profiles(settings)
        row = rows_of(artifact, "user")["new"]
        assert (row["profile"], row["parse_status"]) == ("no profile at all", grammar.MALFORMED)
        assert (artifact.metrics["malformed"], artifact.metrics["asked_again"]) == (1, 1)
        assert artifact.metrics["final.users"]["malformed"] == 1

    @pytest.mark.parametrize(
        ("model", "remedy"), [("refined", "reclm refine"), ("tuned", "reclm tune"), ("base", "reclm tune")]
    )
    def test_without_the_model_the_message_names_the_command(
        self, model: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch, profiles={"engine": "transformers", "model": model})
        with pytest.raises(WorkspaceError, match=remedy):
            stage.write_profiles(settings)

    def test_a_model_of_this_warehouse_is_preferred_to_a_newer_one_of_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch, profiles={"engine": "transformers"})
        for warehouse, age in (("f1", "older"), ("f2", "newer")):
            with artifacts.writing(settings.paths, "refine", {"age": age}, {"warehouse": warehouse}):
                pass
        assert newest_model(settings, "f1").manifest["parameters"]["age"] == "older"
        assert newest_model(settings, "f3").manifest["parameters"]["age"] == "newer"


class TestWithARealModel:
    def test_the_tiny_model_writes_the_profiles(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from llm_world import tiny_base

        settings, _ = workspace(
            tmp_path, monkeypatch, profiles={"engine": "transformers", "retries": 1}, llm={"max_profile_tokens": 24}
        )
        model = as_artifact(settings, "sft", tiny_base(tmp_path))
        artifact = stage.write_profiles(settings, model=model)
        rows = rows_of(artifact, "user")
        assert {row["engine"] for row in rows.values()} == {"transformers"}
        assert {row["engine_version"] for row in rows.values()} == {f"sft-{model.version}"}
        assert all(row["tokens"] > 0 and row["latency_ms"] > 0 for row in rows.values())
