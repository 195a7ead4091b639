"""Lineage of a dbt run goes to a service where one is named, and never fails a build."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reclm.warehouse import lineage
from reclm.warehouse.lineage import send_lineage

SOMEWHERE = {"OPENLINEAGE_URL": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(lineage, "say", lines.append)
    return lines


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `dbt-ol` is looked for: beside the interpreter."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return tmp_path / "dbt-ol"


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)


class TestLineage:
    def test_is_sent_of_the_last_run_under_a_name_of_ours(self, program: Path, said: list[str]) -> None:
        write(program, 'echo "$OPENLINEAGE_NAMESPACE $@" > "$(dirname "$0")/asked"')
        send_lineage(Path("/dbt"), Path("/target"), SOMEWHERE)
        asked = program.with_name("asked").read_text().split()
        assert asked[:2] == ["reclm", "send-events"]
        assert asked[2:] == ["--project-dir", "/dbt", "--profiles-dir", "/dbt", "--target-path", "/target"]
        assert said == []

    def test_is_not_sent_where_no_service_is_named(self, program: Path, said: list[str]) -> None:
        send_lineage(Path("/dbt"), Path("/target"), {"PATH": "/usr/bin"})
        assert said == []

    def test_that_cannot_be_sent_is_said_and_no_error(self, program: Path, said: list[str]) -> None:
        send_lineage(Path("/dbt"), Path("/target"), SOMEWHERE)
        write(program, "echo first >&2; echo 'connection refused' >&2; exit 1")
        send_lineage(Path("/dbt"), Path("/target"), SOMEWHERE)
        assert [line.partition(": the lineage of this build was not sent: ")[0] for line in said] == ["warning"] * 2
        assert "install the extra `lineage`" in said[0]
        assert said[1].endswith("connection refused")
