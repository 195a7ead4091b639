"""The report page: answers first, self-contained, escaped, and plain about what is missing."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest
from unit import evaluation_world as ew

from reclm.errors import WorkspaceError
from reclm.evaluation.evaluate import evaluate
from reclm.evaluation.report import reference
from reclm.evaluation.report.page import CsvFiles, write_report
from reclm.settings.tree import Settings


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ew.World:
    return ew.make_world(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the whole world, written once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return page_of(ew.make_world(tmp_path_factory.mktemp("shop"), monkeypatch))


def page_of(world: ew.World) -> str:
    ew.build_marts(world, evaluate(world.settings, world.backbones))
    ew.promote(world)
    return write_report(world.settings).read_text()


class Page(HTMLParser):
    """Tags, attributes that point somewhere, and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")
        ]
        if tag not in ("meta", "link", "br", "img", "hr", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


class TestThePage:
    def test_is_one_well_formed_file_without_scripts_or_outside_references(self, html: str) -> None:
        page = Page(html)
        assert page.open == []
        assert "script" not in page.tags
        assert {target for target in page.targets if not target.startswith("#")} == {
            "results.csv",
            "bands.csv",
            "comparisons.csv",
        }

    def test_styles_point_nowhere_outside(self, html: str) -> None:
        assert not re.search(r"url\((?!#)|@import", html)
        assert "prefers-color-scheme: dark" in html
        assert "width=device-width" in html

    def test_escapes_every_text_that_came_from_data(self, html: str) -> None:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;.csv" in html
        assert "<script>" not in html
        assert "<b>.csv" not in html

    def test_counts_the_rows_that_were_set_aside_by_reason(self, html: str) -> None:
        assert re.search(r"bad_timestamp</td><td class=\"number\">12</td>", html)
        assert re.search(r"unknown_item</td><td class=\"number\">1</td>", html)

    def test_shows_every_plot(self, html: str) -> None:
        for title in (
            "Gain of profiles, full-shot, by known interactions of the user",
            "Training of lightgcn",
            "Profile quality: nearest similarity",
            "Coverage@20, zero-shot",
            "Novelty@20, full-shot",
        ):
            assert f"<figcaption>{title}</figcaption><svg" in html
        assert "#010203" not in html  # the placeholder has become the theme's colour
        assert "currentColor" in html

    def test_shows_values_with_intervals(self, html: str) -> None:
        assert re.search(r"0\.\d{4}</span><small>0\.\d{4}–0\.\d{4}</small>", html)

    def test_names_no_targets_and_no_headline_for_data_that_are_no_benchmark(self, html: str) -> None:
        assert "headline" not in html
        assert "published" not in html
        assert "Target" not in html

    def test_draws_the_same_plots_twice(self, world: ew.World) -> None:
        first = page_of(world)
        again = write_report(world.settings).read_text()
        svgs = re.compile(r"<svg.*?</svg>", re.DOTALL)
        assert svgs.findall(first) == svgs.findall(again)


class TestTheFirstScreen:
    def test_names_the_model_that_serves_and_the_recorded_reason(self, html: str) -> None:
        assert "The model lightgcn with profiles." in html
        assert "chosen by the promotion policy on 2025-01-02 03:04 UTC" in html
        assert "The recorded reason: lightgcn/augment is the best of today." in html

    def test_compares_it_with_the_usual_baselines_on_known_and_on_new_items(self, html: str) -> None:
        first = html[: html.index('id="plots"')]
        for name in ("popularity", "EASE", "predicted popularity", "content k-nearest neighbours"):
            assert f"<span>{name}</span><i style=" in first
            assert re.search(rf"Difference to {name}: [+-]0\.\d{{4}} \(95 % interval", first)

    def test_shows_one_user_with_titles_profile_and_both_lists(self, html: str) -> None:
        first = html[html.index("One user, without and with profiles") : html.index("What to do next")]
        assert "reader &lt;" in first
        assert "Without profiles (lightgcn)" in first and "With profiles (lightgcn)" in first
        assert first.count("Item &amp; ") >= 20
        assert 'class="hit"' in first

    def test_proposes_two_to_four_commands(self, html: str) -> None:
        steps = html[html.index("What to do next") : html.index('id="plots"')]
        assert 2 <= steps.count("<li><code>reclm ") <= 4
        assert "13 rows of the log were set aside" in steps


class TestLongTables:
    def test_are_csv_files_beside_the_page_and_older_ones_go(self, world: ew.World) -> None:
        page_of(world)
        folder = world.settings.paths.report.parent
        with (folder / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 784
        assert {"setting", "model", "metric", "value"} < set(rows[0])
        (folder / "of_an_older_report.csv").write_text("")
        write_report(world.settings)
        assert {path.name for path in folder.iterdir()} == {
            *("index.html", "results.csv", "bands.csv", "comparisons.csv"),
        }

    def test_are_shown_by_their_first_rows(self) -> None:
        files = CsvFiles()
        table = files.fold("runs", [{"stage": n} for n in range(41)])
        assert (len(table.rows), table.total, table.file) == (40, 41, "runs.csv")
        assert files.fold("few", [{"stage": 1}]).file == ""
        assert list(files.contents) == ["runs.csv"]


class TestABenchmarkDataSet:
    def test_is_shown_beside_its_published_figures_row_by_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        html = page_of(ew.make_world(tmp_path, monkeypatch, name="anime", evaluation={"ks": (20, 40)}))
        for rows in reference.figures_of("anime")["baselines"]["dense"].values():
            for figures in rows.values():
                for figure in figures:
                    assert f"{figure:.4f}" in html
        assert "Target for the best model with profiles: Recall@20 0.3200, NDCG@20 0.3800" in html
        assert "+70.0 % Recall@20 and +204.0 % NDCG@20" in html
        assert re.search(r"[+-]\d+\.\d points", html)

    def test_names_a_published_row_that_did_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        world = ew.make_world(tmp_path, monkeypatch, name="anime", evaluation={"baselines": ("popularity", "random")})
        html = page_of(world)
        ease = html[html.index("<td>ease</td>") :].split("</tr>")[0]
        assert "not run" in ease
        assert "published 0.4412" in ease

    def test_mind_brings_the_papers_table_the_popularity_row_and_the_caution(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        html = page_of(ew.make_world(tmp_path, monkeypatch, name="mind"))
        assert "0.0389 / 0.0150" in html
        assert "one random list of 20 items shown to every user scores" in html
        assert "says nothing about profiles" in html


class TestAnEmptyWorkspace:
    def test_says_not_available_where_nothing_has_been_evaluated(self, world: ew.World) -> None:
        html = write_report(world.settings).read_text()
        assert html.count("not available") >= 6
        assert "No model serves yet." in html
        assert "<code>reclm run</code>" in html
        assert Page(html).open == []

    def test_says_not_available_where_the_tables_are_empty(self, world: ew.World) -> None:
        ew.build_marts(world, evaluate(world.settings, world.backbones))
        with duckdb.connect(str(world.settings.paths.warehouse)) as connection:
            for table in ("fct_evaluation", "fct_evaluation_bands", "fct_comparisons", "fct_training_curves"):
                connection.execute(f"delete from {table}")
        assert "not available: no evaluation has been built" in write_report(world.settings).read_text()

    def test_without_data_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(WorkspaceError, match="reclm ingest"):
            write_report(Settings(workspace=tmp_path))


class TestReferenceFigures:
    def test_are_complete_for_the_data_sets_of_the_targets(self) -> None:
        for dataset in ("anime", "ml-100k"):
            for regime in ("dense", "sparse"):
                settings = reference.figures_of(dataset)["baselines"][regime]
                assert set(settings["full_shot"]) == {"popularity", "itemknn", "ease"}
                assert set(settings["zero_shot"]) == {
                    *("random", "predicted_popularity"),
                    *("content_cosine", "content_knn", "ridge"),
                }
                assert all(len(figures) == 4 for rows in settings.values() for figures in rows.values())

    def test_are_none_for_a_data_set_that_is_no_benchmark(self) -> None:
        assert reference.figures_of("my shop") == {}
        assert reference.published_models("my shop") is None
