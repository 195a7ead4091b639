"""The house keeps its shape: rooms in one order, no import circles, files and lines short enough to read."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "reclm"
TOP_LEVEL = {"__init__.py", "dataset.py", "errors.py", "progress.py", "stages.py", "py.typed"}
LAYERS = (
    {"errors", "progress", "dataset"},
    {"storage"},
    {"settings"},
    {"warehouse", "text", "ingest"},
    {"profiles"},
    {"features", "llm"},
    {"generation"},
    {"backbones"},
    {"training"},
    {"evaluation"},
    {"trials"},
    {"promotion", "ablation"},
    {"health", "maintenance", "serving"},
    {"stages"},
    {"cli", "schedule"},
)
"""Rooms from the lowest layer to the top. A file imports from its own room and from rooms in lower layers."""
LONGEST_FILE = 400
LONGEST_LINE = 120


def modules() -> dict[str, Path]:
    """{dotted name: file} of every module of the package; a package's own name stands for its `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a file imports anywhere: at its top, in functions, for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            source = node.module or ""
            for alias in node.names:
                member = f"{source}.{alias.name}"
                found |= {member} if member in known else {source} & known
    return found


GRAPH = {name: imports_of(path, set(modules())) - {name} for name, path in modules().items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        waiting.append(name)
        for imported in graph[name]:
            if imported not in order:
                visit(imported)
            if imported in waiting:
                low[name] = min(low[name], low[imported])
        if low[name] == order[name]:
            component = set()
            while name not in component:
                component.add(waiting.pop())
            found.append(component)

    for name in graph:
        if name not in order:
            visit(name)
    return [component for component in found if len(component) > 1]


def layer_of(name: str) -> int:
    """The layer of a module's room; the package itself, the entry point for Python, is on top of all layers."""
    if name == "reclm":
        return len(LAYERS)
    return next(layer for layer, rooms in enumerate(LAYERS) if room_of(name) in rooms)


def room_of(name: str) -> str:
    return name.split(".")[1]


class TestImports:
    def test_a_circle_is_found(self) -> None:
        assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]

    def test_no_two_files_import_each_other_by_whatever_detour(self) -> None:
        assert circles(GRAPH) == []

    def test_arrows_run_one_way(self) -> None:
        upwards = [
            f"{name} imports {imported}"
            for name, found in GRAPH.items()
            for imported in found
            if layer_of(name) < layer_of(imported)
        ]
        assert upwards == []

    def test_rooms_in_one_layer_do_not_import_each_other(self) -> None:
        sideways = [
            f"{name} imports {imported}"
            for name, found in GRAPH.items()
            for imported in found
            if 0 < layer_of(name) == layer_of(imported) and room_of(name) != room_of(imported)
        ]
        assert sideways == []


class TestFiles:
    def test_every_module_stands_in_a_room(self) -> None:
        assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == TOP_LEVEL

    def test_every_room_has_a_layer(self) -> None:
        rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
        assert rooms == {room for layer in LAYERS for room in layer} - {"errors", "progress", "dataset", "stages"}

    def test_every_package_says_what_it_is(self) -> None:
        silent = [name for name, path in modules().items() if not ast.get_docstring(ast.parse(path.read_text()))]
        assert silent == []


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in names.decode().split("\0") if name and (path := ROOT / name).exists()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the files of the repository are listed by git")
class TestLength:
    def test_no_file_is_too_long_to_read(self) -> None:
        long = {str(path): len(path.read_text().splitlines()) for path in tracked("*.py", "*.sql", "dbt/*.yml")}
        assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE} == {}

    def test_no_line_is_too_long_to_read(self) -> None:
        long = [
            f"{path.relative_to(ROOT)}:{number}"
            for path in tracked("*.py", "*.sql", "*.yml", "*.md")
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if len(line) > LONGEST_LINE and not (path.suffix == ".md" and re.match(r"\s*(\||\[?!?\[)", line))
        ]
        assert long == []
