"""The parsed dbt project is kept between processes, and never a stale one."""

from __future__ import annotations

from pathlib import Path

import dbt.cli.main
import pytest

from reclm.errors import BuildError
from reclm.warehouse import parsed as module
from reclm.warehouse.parsed import parsed


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A dbt project of one model, as the arguments that name it."""
    root = tmp_path / "project"
    (root / "models").mkdir(parents=True)
    (root / "dbt_project.yml").write_text("name: small\nprofile: small\n")
    (root / "profiles.yml").write_text("small:\n  target: t\n  outputs:\n    t: {type: duckdb, path: ':memory:'}\n")
    (root / "models" / "one.sql").write_text("select 1 as n")

    def files() -> dict[str, Path]:
        found = (path for path in root.rglob("*") if path.suffix in {".yml", ".sql"})
        return {path.relative_to(root).as_posix(): path for path in found}

    monkeypatch.setenv("DO_NOT_TRACK", "1")  # else dbt writes a file of its own into the project
    monkeypatch.setattr(module, "project_files", files)
    monkeypatch.setattr(module, "_contents", {})
    folders = {"--project-dir": root, "--profiles-dir": root, "--target-path": tmp_path / "t", "--log-path": tmp_path}
    return [str(part) for option in folders.items() for part in option]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that dbt was given."""
    calls: list[list[str]] = []

    class Counting(dbt.cli.main.dbtRunner):
        def invoke(self, args: list[str], **options: object) -> dbt.cli.main.dbtRunnerResult:
            calls.append(args)
            return super().invoke(args, **options)

    monkeypatch.setattr(dbt.cli.main, "dbtRunner", Counting)
    return calls


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "project" / "target").glob("parsed-*.msgpack"))


def test_another_process_reads_what_the_first_has_parsed(
    folders: list[str], calls: list[list[str]], tmp_path: Path
) -> None:
    first = parsed(folders)
    module._contents.clear()
    again = parsed(folders)
    assert again is not first and set(again.nodes) == set(first.nodes) == {"model.small.one"}
    assert len(calls) == 1
    assert parsed(folders) is not again, "running leaves traces in a manifest"


def test_a_changed_project_is_parsed_again_and_the_former_one_is_removed(
    folders: list[str], calls: list[list[str]], tmp_path: Path
) -> None:
    parsed(folders)
    before = kept(tmp_path)
    (tmp_path / "project" / "models" / "two.sql").write_text("select n from {{ ref('one') }}")
    assert len(parsed(folders).nodes) == len(calls) == 2
    assert len(kept(tmp_path)) == len(before) == 1 and kept(tmp_path) != before


def test_a_file_that_was_cut_off_is_written_again(folders: list[str], calls: list[list[str]], tmp_path: Path) -> None:
    parsed(folders)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    module._contents.clear()
    assert set(parsed(folders).nodes) == {"model.small.one"}
    assert len(calls) == 2 and len(file.read_bytes()) > 100


def test_a_project_that_cannot_be_parsed_is_an_error_and_is_not_kept(folders: list[str], tmp_path: Path) -> None:
    (tmp_path / "project" / "models" / "one.sql").write_text("select * from {{ ref('nothing') }}")
    with pytest.raises(BuildError, match=r"cannot be parsed.*nothing"):
        parsed(folders)
    assert kept(tmp_path) == []
