"""The profile stage: what lands in the artifact, that it is found again, and that its bytes do not depend on the day."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.profiles_world import HISTORIES, ITEMS, workspace

from reclm import artifacts
from reclm.errors import WorkspaceError
from reclm.profiles import engine, grammar, quality
from reclm.settings import Settings


class TestArtifact:
    def test_it_holds_one_row_per_snapshot_and_id_sorted_by_id(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, current = workspace(tmp_path, monkeypatch)
        artifact = engine.write_profiles(settings)
        for kind, ids in (("user", HISTORIES), ("item", ITEMS)):
            table = pq.read_table(artifact.path / f"{kind}_profiles.parquet")
            assert table.schema.equals(engine.profile_schema(kind))  # type: ignore[arg-type]
            assert table[f"{kind}_id"].to_pylist() == sorted(ids) * 2
            assert table["snapshot"].to_pylist() == ["select"] * len(ids) + ["final"] * len(ids)
            assert set(table["version"].to_pylist()) == {artifact.version}
            assert set(table["dataset"].to_pylist()) == {"tiny"}
            assert {str(moment) for moment in table["as_of"].to_pylist()} == {
                "2000-01-02 00:00:00+00:00",
                "2000-01-03 00:00:00+00:00",
            }
            for row in table.to_pylist():
                assert row["parse_status"] == grammar.parse(row["profile"]).status
        assert current == {"profiles": artifact.version}

    def test_quality_speaks_of_both_snapshots_and_kinds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        table = pq.read_table(engine.write_profiles(settings).path / "quality.parquet")
        assert table.schema.equals(quality.SCHEMA)
        rows = table.to_pylist()
        assert {(row["snapshot"], row["kind"]) for row in rows} == {
            (snapshot, kind) for snapshot in ("select", "final") for kind in ("user", "item")
        }
        keys = [(row["snapshot"], row["kind"], row["severity"], row["metric"]) for row in rows]
        assert len(set(keys)) == len(keys)
        assert {row["value"] for row in rows if row["metric"] == "format"} == {1.0}

    def test_the_manifest_counts_flags(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        metrics = engine.write_profiles(settings).metrics
        assert metrics["final.users"]["no_history"] == 1
        assert metrics["final.items"]["no_text"] == 1


class TestVersions:
    def test_what_stands_is_used_again_and_said_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings, current = workspace(tmp_path, monkeypatch)
        first = engine.write_profiles(settings)
        current.clear()
        capsys.readouterr()
        assert engine.write_profiles(settings).manifest == first.manifest
        assert "used again" in capsys.readouterr().err
        assert current == {"profiles": first.version}

    def test_settings_seed_and_warehouse_each_make_another_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        versions = {engine.write_profiles(settings).version}
        versions.add(engine.write_profiles(settings.model_copy(update={"seed": 7})).version)
        fewer = settings.profiles.model_copy(update={"interests": 2})
        versions.add(engine.write_profiles(settings.model_copy(update={"profiles": fewer})).version)
        workspace(tmp_path, monkeypatch, fingerprint="f2")
        versions.add(engine.write_profiles(settings).version)
        assert len(versions) == 4
        assert len(artifacts.all_of(settings.paths, "profiles")) == 4

    def test_two_runs_give_the_same_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written = []
        for name in ("one", "two"):
            settings, _ = workspace(tmp_path / name, monkeypatch)
            path = engine.write_profiles(settings).path
            written.append({file.name: file.read_bytes() for file in path.glob("*.parquet")})
        assert len(written[0]) == 3
        assert written[0] == written[1]


class TestWithoutTexts:
    def test_rows_are_flagged_and_the_engine_says_why(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch, texts=False)
        artifact = engine.write_profiles(settings)
        assert "no texts: profiles would carry nothing" in capsys.readouterr().err
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
            engine.write_profiles(Settings(workspace=tmp_path / "nothing"))
