"""The tour notebook: it stores no outputs, and every cell runs on a small workspace."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell and return the value of its last expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return eval(compile(last, str(NOTEBOOK), "eval"), names) if last else None


def test_no_outputs_are_stored() -> None:
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code"
    )


def test_every_code_cell_follows_an_explanation() -> None:
    assert CELLS[0]["cell_type"] == "markdown"
    assert sum(cell["cell_type"] == "markdown" for cell in CELLS) >= 8


@pytest.mark.full
def test_every_cell_runs(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLM_WORKSPACE", str(shop))
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = [run_cell("".join(cell["source"]), names) for cell in CELLS if cell["cell_type"] == "code"]
    assert len(names["figures"]) >= 4
    assert len(names["item_ids"][0]) == 10
    assert names["features"].vector is not None
    assert sum(value is not None for value in shown) >= 12
