"""A DuckDB file that another program holds: the program is named, and builds go on beside readers and writers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from reclm.errors import BuildError, WorkspaceError
from reclm.settings.tree import Settings
from reclm.storage.files import write_json
from reclm.warehouse import build as building
from reclm.warehouse.held import held_by
from reclm.warehouse.reading import connect

HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read(); "
HOLD += "c.execute('create table late as select 1'); c.close()"


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program has the file open for writing."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    program = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True, **pipes)
    assert program.stdout is not None and program.stdout.readline() == "held\n"
    try:
        yield program
    finally:
        program.communicate()


@pytest.fixture
def settings(workspace_settings: Callable[..., Settings]) -> Settings:
    made = workspace_settings()
    for path in (made.paths.build_database, made.paths.warehouse):
        path.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect(str(path)) as connection:
            connection.execute("create table int_snapshots as select 1 as x")
    return made


class TestTheAnalystsCopy:
    def test_that_a_program_holds_for_writing_is_named_with_the_process(self, settings: Settings) -> None:
        with held(settings.paths.warehouse) as program, pytest.raises(WorkspaceError) as refused:
            connect(settings)
        assert f"(process {program.pid})" in str(refused.value)
        assert str(settings.paths.warehouse) in str(refused.value)

    def test_is_replaced_by_a_build_all_the_same_and_not_spoilt_by_the_program(self, settings: Settings) -> None:
        with held(settings.paths.warehouse):
            building._publish_copy(settings.paths)
            with connect(settings) as connection:
                assert connection.execute("select x from int_snapshots").fetchall() == [(1,)]
        with connect(settings) as connection:
            assert connection.execute("show tables").fetchall() == [("int_snapshots",)]

    def test_that_is_no_database_is_named_with_the_remedy(self, settings: Settings) -> None:
        settings.paths.warehouse.write_text("oh")
        with pytest.raises(WorkspaceError, match="reclm build --force"):
            connect(settings)


class TestTheDatabaseOfTheBuild:
    def test_that_a_program_holds_is_named_with_the_process(self, settings: Settings) -> None:
        (settings.paths.external / "x").mkdir(parents=True)
        write_json(settings.paths.current_build, {"marts": {}})
        with held(settings.paths.build_database) as program, pytest.raises(BuildError) as refused:
            building._finished_build(settings.paths)
        assert f"(process {program.pid})" in str(refused.value)

    def test_is_named_too_when_dbt_finds_it_held(self) -> None:
        message = 'IO Error: Could not set lock on file "b": Conflicting lock is held in /bin/dbeaver (PID 7). See also'
        assert "held open by /bin/dbeaver (process 7);" in held_by(Path("b"), message)
        assert "another program" in held_by(Path("b"), "IO Error: Could not set lock on file")
