"""The dbt models walk staging -> intermediate -> marts: what each model may read, and where it says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reclm.warehouse.sources import IMPORTED_BY_MODELS, dbt_project

LAYERS = ("staging", "intermediate", "marts")
MODELS = {
    path.stem: path
    for path in sorted((dbt_project() / "models").rglob("*"))
    if path.suffix in (".sql", ".py") and path.is_file()
}
SQL_MODELS = [name for name, path in MODELS.items() if path.suffix == ".sql"]
SEEDS = {path.stem for path in (dbt_project() / "seeds").glob("*.csv")}
REF = re.compile(r"""\bref\(\s*["'](\w+)["']\s*\)""")
IMPORT = re.compile(r"^  from \{\{ (ref|source)\(.*\) \}\}$")
LONGEST_YML = 400


def layer_of(name: str) -> int:
    """0 for staging, 1 for intermediate, 2 for marts."""
    return LAYERS.index(MODELS[name].relative_to(dbt_project() / "models").parts[0])


def refs_of(name: str) -> list[str]:
    return [found for found in REF.findall(MODELS[name].read_text()) if found not in SEEDS]


class TestArrows:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_model_reads_models_of_its_own_layer_and_of_earlier_ones(self, name: str) -> None:
        backward = [ref for ref in refs_of(name) if layer_of(ref) > layer_of(name)]
        assert backward == [], f"{name} reads {backward}, which come later; move that logic into an intermediate model"

    def test_the_walk_finds_the_models(self) -> None:
        assert refs_of("fct_known_interactions") == ["int_known_interactions"]
        assert {layer_of(name) for name in MODELS} == {0, 1, 2}

    def test_macros_name_no_model(self) -> None:
        named = [path.name for path in (dbt_project() / "macros").glob("*.sql") if "ref(" in path.read_text()]
        assert named == [], "pass a CTE to the macro, and import it in the model"


class TestImports:
    def test_modules_that_python_models_import_are_part_of_the_fingerprints(self) -> None:
        texts = [path.read_text() for path in MODELS.values() if path.suffix == ".py"]
        imported = {name for text in texts for name in re.findall(r"^from reclm\.([\w.]+) import", text, flags=re.M)}
        assert {f"{name.replace('.', '/')}.py" for name in imported} == set(IMPORTED_BY_MODELS)

    @pytest.mark.parametrize("name", SQL_MODELS)
    def test_a_model_imports_what_it_reads_in_its_leading_ctes(self, name: str) -> None:
        text = MODELS[name].read_text()
        lines = [line for line in text.splitlines() if "ref(" in line or "source(" in line]
        assert [line for line in lines if not IMPORT.match(line)] == []
        ctes = re.split(r"^(?:with )?\w+ as \($", text, flags=re.M)[1:]
        reads = ["ref(" in body or "source(" in body for body in ctes]
        assert reads == sorted(reads, reverse=True), f"{name} reads a model after its first CTE of logic"


class TestDescriptions:
    @pytest.mark.parametrize("path", sorted((dbt_project() / "models").rglob("*.yml")), ids=lambda path: path.stem)
    def test_a_yml_is_short_enough_to_read(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= LONGEST_YML
