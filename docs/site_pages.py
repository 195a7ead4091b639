"""Makes the pages of the site that docs/ does not hold: README, change log and infra, and one API page per room.

MkDocs calls the functions below (a hook, see mkdocs.yml): the tree of files comes in, pages and the navigation go out.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "infra/README.md": "infra.md"}
"""Pages that stand outside docs/ in the repository, and their names on the site."""
GUIDES = ("architecture", "analysts", "operations", "serving", "cli", "results", "experiments")
LINK = re.compile(r"(\]\(|(?:src|href)=\")([^)\"#:]+)(?=[)\"#])")


def rooms() -> list[str]:
    """The packages and modules directly inside reclm/, in alphabetical order."""
    found = {path.stem for path in (ROOT / "reclm").iterdir() if _source_of(path.stem).exists()}
    return sorted(found - {"__init__"})


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the navigation: start page, guides, one API page per room."""
    guides: list[Any] = [f"{name}.md" for name in GUIDES if (ROOT / "docs" / f"{name}.md").exists()]
    api = ["api/index.md", *({f"reclm.{room}": f"api/{room}.md"} for room in rooms())]
    last = [{"Containers": "infra.md"}, {"Changes": "changelog.md"}]
    config.nav = [{"Start": "index.md"}, *guides, *last, {"Python API": api}]  # type: ignore[assignment]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {target: _moved((ROOT / source).read_text(), source) for source, target in COPIES.items()}
    pages["api/index.md"] = _api_index()
    pages |= {f"api/{room}.md": f"::: reclm.{room}\n" for room in rooms()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def _moved(text: str, source: str) -> str:
    """The text of `source` with its relative links as they must be on the site."""

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        return match[1] + COPIES.get(path, path.removeprefix("docs/"))

    return LINK.sub(target, text)


def _api_index() -> str:
    rows = [f"| [{room}]({room}.md) | {_first_sentence(room)} |" for room in rooms()]
    return "\n".join(
        [
            "# Python API",
            "",
            "::: reclm",
            "    options:",
            "      heading_level: 2",
            "      show_submodules: false",
            "",
            "## Rooms",
            "",
            "| room | what it does |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _first_sentence(room: str) -> str:
    docstring = ast.get_docstring(ast.parse(_source_of(room).read_text())) or ""
    return re.split(r"(?<=\.)\s|\n\n", docstring)[0].replace("\n", " ")


def _source_of(room: str) -> Path:
    package = ROOT / "reclm" / room / "__init__.py"
    return package if package.exists() else ROOT / "reclm" / f"{room}.py"
