"""The process that runs dbt for this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from reclm.warehouse import dbt

ECHO = "import sys; print(sys.stdin.readline(), flush=True)"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[str]]]:
    """The children that `dbt` starts: the first has closed its end of the pipe, the second repeats what it is told."""
    pipe, children = subprocess.PIPE, list[subprocess.Popen[str]]()

    def child(_: object) -> subprocess.Popen[str]:
        code = ECHO if children else "import os, time; os.close(0); print(flush=True); time.sleep(0.2)"
        children.append(subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True))
        if len(children) == 1:
            assert children[0].stdout is not None
            children[0].stdout.readline()
        return children[-1]

    monkeypatch.setattr(dbt, "_child", child)
    yield children
    for one in children:
        one.kill()
        one.wait()


class TestACommand:
    def test_is_given_again_to_a_new_process_when_the_first_has_died(
        self, started: list[subprocess.Popen[str]]
    ) -> None:
        child = dbt._told({"arguments": ["parse"]}, {})
        assert child is started[1] and child.stdout is not None
        assert json.loads(child.stdout.readline()) == {"arguments": ["parse"]}


class TestWhatLibrariesPrint:
    def test_is_a_message_whatever_it_looks_like(self) -> None:
        lines = "5\n[1]\nhello\n" + json.dumps({dbt.ENDED: False}) + "\n"
        child = subprocess.Popen(
            [sys.executable, "-c", f"print({lines!r})"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        errors: list[str] = []
        assert list(dbt._events(child, errors)) == []
        assert errors == ["5", "[1]", "hello"]
        child.wait()
