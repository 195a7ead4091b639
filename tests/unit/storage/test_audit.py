"""The record of who changed what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reclm.errors import WorkspaceError
from reclm.serving import api_keys, availability
from reclm.storage import audit
from reclm.storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


class TestTheRecord:
    def test_says_who_did_what_and_when_in_order(self, workspace: Workspace) -> None:
        assert audit.entries(workspace) == []
        api_keys.add(workspace, "shop", ["recommend"], None)
        availability.set_available(workspace, "tea", False, by="key shop")
        availability.set_available(workspace, "tea", False, by="key shop")  # changes nothing
        availability.set_available(workspace, "tea", True)
        api_keys.remove(workspace, "shop")
        found = audit.entries(workspace)
        assert [one["action"] for one in found] == ["add key", "hide item", "show item", "remove key"]
        assert found[1]["by"] == "key shop"
        assert "@" in found[0]["by"]
        assert found[0]["scopes"] == ["recommend"]

    @pytest.mark.parametrize(
        "tamper",
        [
            lambda lines: [lines[0], lines[1].replace("one", "two"), *lines[2:]],
            lambda lines: [lines[0], *lines[2:]],
            lambda lines: [lines[1], lines[0], *lines[2:]],
            lambda lines: ["nonsense", *lines],
        ],
        ids=["a changed line", "a removed line", "another order", "no JSON"],
    )
    def test_that_was_tampered_with_is_refused(
        self, workspace: Workspace, tamper: Callable[[list[str]], list[str]]
    ) -> None:
        for number in range(3):
            audit.record(workspace, "test", what=["none", "one", "three"][number])
        path = audit.path_of(workspace)
        path.write_text("\n".join(tamper(path.read_text().splitlines())) + "\n")
        with pytest.raises(WorkspaceError, match="was changed or removed"):
            audit.entries(workspace)

    @pytest.mark.parametrize("length", [50, audit.TAIL_BYTES, 5 * audit.TAIL_BYTES])
    def test_goes_on_after_a_line_of_any_length(self, workspace: Workspace, length: int) -> None:
        for torn in ("", "x" * length):
            audit.record(workspace, "long", files="f" * length)
            with audit.path_of(workspace).open("a") as file:
                file.write(torn)
        audit.record(workspace, "last")
        assert [one["action"] for one in audit.entries(workspace)] == ["long", "long", "last"]

    def test_goes_on_after_a_line_that_a_kill_has_cut(self, workspace: Workspace) -> None:
        audit.record(workspace, "first")
        with audit.path_of(workspace).open("a") as file:
            file.write('{"at": "2026')
        assert [one["action"] for one in audit.entries(workspace)] == ["first"]
        audit.record(workspace, "second")
        assert [one["action"] for one in audit.entries(workspace)] == ["first", "second"]
