"""Teachers: whom they describe, profiles from elsewhere, and what an endpoint costs and is not asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_endpoint import FAULTS, Server, status
from unit.profiles_world import HISTORIES, ITEMS, workspace

from reclm.ablation.arms import overridden
from reclm.dataset import SNAPSHOTS
from reclm.errors import InputError, ModelError
from reclm.llm.engines import openai
from reclm.llm.teacher.stage import Teacher, load_teacher, write_teacher
from reclm.llm.teacher.table import normalised
from reclm.profiles import grammar, keywords
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.storage.schemas import PROFILE_FILES, profile_schema

HIKER = "User identity: hiker; User interests: wet ridges, long walks"


def written_teacher(settings: Settings) -> tuple[Artifact, Teacher]:
    artifact = write_teacher(settings)
    assert artifact is not None
    return artifact, load_teacher(settings, artifact)


class TestTeacher:
    def test_interests_of_an_item_at_final_fall_back_to_those_at_select(self) -> None:
        teacher = Teacher({("item", "select"): {"a": HIKER, "b": "nonsense"}, ("item", "final"): {"c": HIKER}})
        assert teacher.interests("a") == teacher.interests("a", "final") == "wet ridges, long walks"
        assert teacher.interests("b") == teacher.interests("unknown") == ""
        assert (teacher.interests("c", "final"), teacher.interests("c", "select")) == ("wet ridges, long walks", "")
        assert (teacher.of("item", "b"), teacher.of("user", "a")) == ("nonsense", None)


class TestKeywords:
    def test_it_writes_every_snapshot_in_the_form_of_profiles(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        artifact, teacher = written_teacher(settings)
        for kind, ids in (("user", HISTORIES), ("item", ITEMS)):
            table = pq.read_table(artifact.path / PROFILE_FILES[kind])
            assert table.schema.equals(profile_schema(kind))  # type: ignore[arg-type]
            assert set(table[f"{kind}_id"].to_pylist()) == set(ids)
            assert table["snapshot"].to_pylist() == [snapshot for snapshot in SNAPSHOTS for _ in ids]
        for profiles in teacher.profiles.values():
            assert all(grammar.parse(text).ok for text in profiles.values())
        assert "new" not in teacher.profiles["user", "final"]
        assert artifact.manifest["parents"] == {"warehouse": "f1"}

    def test_it_is_reused_until_something_it_depends_on_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        first, _ = written_teacher(settings)
        assert written_teacher(settings)[0].manifest == first.manifest
        assert written_teacher(settings.model_copy(update={"seed": 9}))[0].version != first.version
        assert written_teacher(workspace(tmp_path, monkeypatch, fingerprint="f2")[0])[0].version != first.version

    def test_settings_limit_how_many_are_described(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lenient = {"TEACHER_MIN_KNOWN": 1, "TEACHER_MIN_ITEMS": 1, "TEACHER_MIN_PICKS": 1, "TEACHER_MIN_EXCESS": 0.0}
        for name, value in lenient.items():
            monkeypatch.setattr(keywords, name, value)
        everybody = written_teacher(workspace(tmp_path, monkeypatch)[0])[1].profiles["user", "final"]
        few = written_teacher(workspace(tmp_path, monkeypatch, teacher={"users": 2})[0])[1].profiles["user", "final"]
        assert len(few) == 2 < len(everybody)
        assert few.items() <= everybody.items()


def table_of(folder: Path, kind: str, profiles: dict[Any, str], **columns: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    content = {f"{kind}_id": list(profiles), "profile": list(profiles.values()), **columns}
    pq.write_table(pa.table(content), folder / f"teacher_{kind}_profiles.parquet")


class TestTable:
    def from_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
        teacher = {"engine": "table", "table": str(tmp_path / "table")}
        return workspace(tmp_path / "w", monkeypatch, teacher=teacher)[0]

    def test_profiles_of_known_ids_are_read_for_both_snapshots(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        profiles = {
            "a": f"{HIKER}.",
            "b": "Identity: [Chef], [Baker]\ninterests: [Bread]; [Cake]",
            "zz": HIKER,
            "c": "?",
        }
        table_of(tmp_path / "table", "user", profiles, prompt=["p"] * 4)
        artifact, teacher = written_teacher(self.from_table(tmp_path, monkeypatch))
        assert teacher.profiles["user", "select"] == teacher.profiles["user", "final"] == {
            "a": HIKER, "b": "User identity: Chef, Baker; User interests: Bread, Cake", "c": "?"
        }  # fmt: skip
        assert teacher.profiles["item", "select"] == {}
        assert artifact.metrics["users"] == {
            "provided": 4, "unknown_ids": 1, "profiles": 3, "ok": 1, "ok_normalised": 2
        }  # fmt: skip
        assert artifact.metrics["select.users"]["malformed"] == 1

    def test_ids_of_any_type_become_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = self.from_table(tmp_path, monkeypatch)
        import duckdb

        with duckdb.connect(str(settings.paths.warehouse)) as connection:
            connection.execute("insert into dim_users values ('20', (select count(*) from dim_users))")
        table_of(tmp_path / "table", "user", {20: HIKER})
        assert written_teacher(settings)[1].of("user", "20") == HIKER

    def test_another_content_makes_another_version(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        versions = set()
        for text in (HIKER, HIKER.replace("wet", "dry")):
            table_of(tmp_path / "table", "item", {"c0": text})
            versions.add(written_teacher(self.from_table(tmp_path, monkeypatch))[0].version)
        assert len(versions) == 2

    def test_a_folder_without_the_files_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match=r"teacher\.table = .*holds neither"):
            write_teacher(self.from_table(tmp_path, monkeypatch))

    def test_a_file_without_the_columns_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "table").mkdir()
        pq.write_table(
            pa.table({"user_id": ["a"], "text": ["x"]}), tmp_path / "table" / "teacher_user_profiles.parquet"
        )
        with pytest.raises(InputError, match="has no column profile"):
            write_teacher(self.from_table(tmp_path, monkeypatch))

    @pytest.mark.shared_data
    def test_most_of_chatgpts_real_profiles_come_into_the_grammar(self, shared_data: Path) -> None:
        for kind in ("user", "item"):
            texts = pq.read_table(shared_data / "mind" / f"teacher_{kind}_profiles.parquet")["profile"].to_pylist()
            assert sum(grammar.parse(normalised(text)).ok for text in texts) >= 0.97 * len(texts)


class TestNormalised:
    @pytest.mark.parametrize(
        ("provided", "expected"),
        [
            (f"  {HIKER}. ", HIKER),
            (
                "User Identities: 1. A person, 2. A PERSON\nUser Interests: - tea\n- <b>cake</b>",
                "User identity: A person; User interests: tea, cake",
            ),
            (
                f"User identity: a; User interests: {', '.join(['one two three four five six seven'] * 2)}",
                "User identity: a; User interests: one two three four five six",
            ),
            ("I cannot tell.", "I cannot tell."),
            ("User identity: ; User interests: tea", "User identity: ; User interests: tea"),
        ],
    )
    def test_the_form_is_corrected_and_nothing_is_invented(self, provided: str, expected: str) -> None:
        assert normalised(provided) == expected


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(openai, "FIRST_WAIT", 0.02)
    server = Server()
    yield server
    server.stop()


class TestEndpoint:
    def with_endpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, **options: Any
    ) -> Settings:
        sections: dict[str, Any] = {
            "teacher": {"engine": "openai"},
            "openai": {"base_url": server.url, "timeout": 0.4, "price_in": 1.0, "price_out": 2.0, **options},
            "profiles": {"shard_size": 2},
        }
        return workspace(tmp_path, monkeypatch, **sections)[0]

    @pytest.fixture(autouse=True)
    def answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Profiles that name a word of the prompt, so that items' prompts can be seen to hold users' interests."""
        from reclm.llm.engines.base import Answer
        from reclm.llm.engines.openai import OpenAIEngine

        original = OpenAIEngine._ask

        async def ask(engine: OpenAIEngine, messages: Any, *rest: Any) -> Answer:
            answer = await original(engine, messages, *rest)
            taste = "mountains" if "boots" in messages[-1]["content"] else "coffee"
            return answer._replace(text=f"User identity: somebody; User interests: {taste}")

        monkeypatch.setattr(OpenAIEngine, "_ask", ask)

    def test_users_are_asked_about_first_and_items_with_their_audiences_interests(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
    ) -> None:
        artifact, teacher = written_teacher(self.with_endpoint(tmp_path, monkeypatch, server))
        assert teacher.of("user", "e") == "User identity: somebody; User interests: mountains"
        assert teacher.profiles["user", "final"] == teacher.profiles["item", "final"] == {}
        assert {"new", "f"}.isdisjoint(teacher.profiles["user", "select"])
        prompts = [body["messages"][-1]["content"] for body in server.bodies]
        about_items = [prompt for prompt in prompts if prompt.startswith("The item")]
        assert prompts.index(about_items[0]) == len(prompts) - len(about_items)
        (tent,) = [prompt for prompt in about_items if "Trail boots" in prompt]
        assert "- mountains" in tent
        rows = pq.read_table(artifact.path / PROFILE_FILES["user"]).to_pylist()
        assert {row["engine_version"] for row in rows} == {"m-1"}
        assert all(row["prompt_hash"] and row["tokens"] == 5 for row in rows)

    def test_cost_is_printed_before_and_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        artifact, _ = written_teacher(self.with_endpoint(tmp_path, monkeypatch, server))
        printed = capsys.readouterr().err
        assert printed.index("about to ask") < printed.index("the endpoint answered")
        used = artifact.metrics
        assert used["cost"] == round((used["prompt_tokens"] + 2 * used["answer_tokens"]) / 1e6, 4)

    def test_another_model_at_the_same_address_is_another_teacher(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
    ) -> None:
        settings = self.with_endpoint(tmp_path, monkeypatch, server)
        first = written_teacher(settings)[0]
        assert first.manifest["parameters"]["model"] == "m-1"
        assert written_teacher(settings)[0].version == first.version
        monkeypatch.setattr(
            "reclm.llm.teacher.stage.served_model", lambda settings, retries: openai.ServedModel("m-2", "")
        )
        assert written_teacher(settings)[0].version != first.version

    def test_another_state_of_the_model_is_another_teacher_also_under_a_name_of_the_settings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
    ) -> None:
        settings = self.with_endpoint(tmp_path, monkeypatch, server, model="m-1")
        server.about = {"created": 1_700_000_000}
        first = written_teacher(settings)[0]
        assert first.manifest["parameters"]["revision"] == "created 1700000000"
        assert written_teacher(settings)[0].version == first.version
        server.about = {"created": 1_700_000_001}
        assert written_teacher(settings)[0].version != first.version

    def test_a_finished_teacher_of_any_model_is_reused_while_the_endpoint_is_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = self.with_endpoint(tmp_path, monkeypatch, server, retries=1)
        first = written_teacher(settings)[0]
        server.stop()
        capsys.readouterr()
        assert written_teacher(settings)[0].version == first.version
        assert "gave no answer in 1 tries" in capsys.readouterr().err
        with pytest.raises(ModelError, match="gave no answer in 2 tries"):
            written_teacher(overridden(settings, {"profiles": {"temperature": 0.5}}))

    def test_a_dry_run_asks_nothing_and_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = self.with_endpoint(tmp_path, monkeypatch, server)
        assert write_teacher(settings, dry_run=True) is None
        assert server.bodies == []
        assert "would ask" in capsys.readouterr().err
        assert artifacts.all_of(settings.paths, "teacher") == []

    def test_an_interrupted_run_pays_for_nothing_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
    ) -> None:
        settings = self.with_endpoint(tmp_path / "one", monkeypatch, server, retries=0, concurrency=1)
        whole = written_teacher(settings)[1]
        n_requests = len(server.bodies)
        settings = self.with_endpoint(tmp_path / "two", monkeypatch, server, retries=0, concurrency=1)
        server.faults += [answer_one] * (n_requests // 2) + [status(500)]
        with pytest.raises(ModelError, match="run the command again"):
            write_teacher(settings)
        before = len(server.bodies)
        assert written_teacher(settings)[1].profiles == whole.profiles
        assert len(server.bodies) - before <= n_requests - n_requests // 2 + settings.profiles.shard_size

    def test_faults_of_the_endpoint_change_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
    ) -> None:
        quiet = written_teacher(self.with_endpoint(tmp_path / "one", monkeypatch, server))[1]
        server.faults += [FAULTS[name] for name in ("a time-out", "broken JSON", "an error of the server")]
        assert written_teacher(self.with_endpoint(tmp_path / "two", monkeypatch, server))[1].profiles == quiet.profiles

    def test_settings_limit_how_many_the_endpoint_describes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
    ) -> None:
        settings = self.with_endpoint(tmp_path, monkeypatch, server)
        settings = settings.model_copy(update={"teacher": settings.teacher.model_copy(update={"users": 2, "items": 3})})
        profiles = written_teacher(settings)[1].profiles
        assert (len(profiles["user", "select"]), len(profiles["item", "select"])) == (2, 3)


def answer_one(handler: Any) -> None:
    from faulty_endpoint import completion

    handler.send(json.loads(json.dumps(completion(HIKER))))
