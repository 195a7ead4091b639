"""Named lists of items: written whole, read by every process, looked up as masks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reclm.serving.item_lists import ItemLists, NoItemListError
from reclm.settings.loading import load
from reclm.storage.workspace import Workspace


class Index:
    """Stands for the candidate index: items a to e."""

    def __init__(self) -> None:
        self.item_ids = np.array(list("abcde"))
        self.backbone = SimpleNamespace(
            fitted=SimpleNamespace(item_position={item: row for row, item in enumerate(self.item_ids)})
        )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return load([], workspace=tmp_path, environment={}).paths


@pytest.fixture
def index() -> Any:
    return Index()


class TestAList:
    def test_becomes_a_mask_over_the_candidates(self, workspace: Workspace, index: Any) -> None:
        lists = ItemLists(workspace)
        assert lists.write("stock", ["e", "b", "unknown", "b"]).items == 3
        assert lists.mask("stock", index).tolist() == [False, True, False, False, True]

    def test_that_is_empty_holds_nothing(self, workspace: Workspace, index: Any) -> None:
        lists = ItemLists(workspace)
        lists.write("stock", [])
        assert not lists.mask("stock", index).any()

    def test_written_by_one_process_is_seen_by_another_at_once(self, workspace: Workspace, index: Any) -> None:
        writer, reader = ItemLists(workspace), ItemLists(workspace)
        writer.write("stock", ["a"])
        assert reader.mask("stock", index).tolist()[:2] == [True, False]
        writer.write("stock", ["b"])
        assert reader.known_mask("stock", index) is None
        assert reader.mask("stock", index).tolist()[:2] == [False, True]
        assert reader.known_mask("stock", index) is not None
        writer.delete("stock")
        with pytest.raises(NoItemListError):
            reader.mask("stock", index)

    def test_is_looked_up_again_in_another_index(self, workspace: Workspace, index: Any) -> None:
        lists = ItemLists(workspace)
        lists.write("stock", ["a"])
        lists.mask("stock", index)
        other: Any = Index()
        assert lists.known_mask("stock", other) is None
        assert lists.mask("stock", other)[0]

    def test_is_listed_with_its_size(self, workspace: Workspace) -> None:
        lists = ItemLists(workspace)
        assert lists.all() == []
        lists.write("stock", ["a", "b"])
        lists.write("adults", ["c"])
        assert [(one.name, one.items) for one in lists.all()] == [("adults", 1), ("stock", 2)]

    @pytest.mark.parametrize("name", ["", "../keys", "a/b", ".hidden", "x" * 65])
    def test_of_another_name_does_not_exist(self, workspace: Workspace, index: Any, name: str) -> None:
        lists = ItemLists(workspace)
        with pytest.raises(NoItemListError):
            lists.mask(name, index)
        with pytest.raises(NoItemListError):
            lists.delete(name)
