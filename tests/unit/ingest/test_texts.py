"""Texts of items become what a person would read, whatever the file holds in a cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.ingest_world import LOG, Make, landed

from reclm.ingest import ingest
from reclm.ingest.looks import look_of
from reclm.ingest.texts import names_in, plain_text
from reclm.settings.tree import Settings


class TestPlainText:
    @pytest.mark.parametrize(
        ("cell", "text"),
        [
            ("Rake &amp; case &quot;XL&quot;", 'Rake & case "XL"'),
            ('<span id="x">Frame</span> 4', "Frame 4"),
            ("<p>One</p><p>two<br/>three</p><script>x()</script>", "One two three"),
            ("H<sub>2</sub>O", "H2O"),
            ("&lt;br /&gt;twice &amp;amp; escaped", "twice & escaped"),
        ],
    )
    def test_entities_and_tags_of_html_go(self, cell: str, text: str) -> None:
        assert plain_text(cell) == text

    @pytest.mark.parametrize("cell", ["I <3 you & a < b", "<Untitled>", "[REC]", "{braces", '("a", "b")', "a & b", ""])
    def test_what_only_resembles_markup_or_a_literal_stays(self, cell: str) -> None:
        assert plain_text(cell) == cell

    @pytest.mark.parametrize(
        ("cell", "text"),
        [
            ("[{'id': 16, 'name': 'Animation'}, {'id': 35, 'name': 'Comedy'}]", "Animation Comedy"),
            ('{"Brand": "Acme", "Rank": {"Toys": 0}, "ok": true, "none": null}', "Acme"),
            ('{"WiFi": "u\'free\'", "Parking": "{\'garage\': False}"}', "free"),
            ('[{"thumb": "https://img.example/a.jpg", "large": null}]', ""),
            ('["<b>Light</b>", "Strong &amp; stable"]', "Light Strong & stable"),
            ("[1, 2]", ""),
        ],
    )
    def test_literals_give_the_texts_in_them(self, cell: str, text: str) -> None:
        assert plain_text(cell) == text

    @pytest.mark.parametrize(
        "cell", ["[" * 100_000, "{'a': " * 10_000, "[" + "'x'," * 500_000 + "]", "{[}]", "['\\x']"]
    )
    def test_a_literal_that_cannot_be_opened_stays_as_it_is(self, cell: str) -> None:
        assert plain_text(cell) == cell

    def test_names_of_a_list_are_told_apart(self) -> None:
        assert names_in("[['Books', 'Fiction'], ['Books', 'Crime']]") == ["Books", "Fiction", "Books", "Crime"]
        assert names_in("Books, Fiction") is None


class TestLooks:
    @pytest.mark.parametrize(
        ("values", "look"),
        [
            (["1", "2.5", "$12.99", "—"], "numbers"),
            (["1999", "2003"], "numbers"),
            (["https://a.example/b", "www.example.org/c"], "links"),
            (["/7G9915LfUQ.jpg"], "links"),
            (['[{"thumb": "https://img.example/a.jpg"}]'], "links"),
            (["2024-01-02", "2024-01-03T00:00:00Z"], "dates"),
            (["Jan 5, 2024", "7 March 2023"], "dates"),
            (["tt0114709", "tt0113497"], "codes"),
            (["d41d8cd98f00b204e9800998ecf8427e"], "codes"),
            (["en", "fr", "en"], "codes"),
            (["True", "False"], "flags"),
            (["0", "1"], "flags"),
            ([], "empty"),
            (["红", "蓝"], "text"),
            (["第1号"], "text"),
            (["Acme"], "text"),
            (["1 Main St"], "text"),
            (["May day", "June bug"], "text"),
        ],
    )
    def test_values_tell_what_a_column_holds(self, values: list[str], look: str) -> None:
        assert look_of(values) == look


class TestTheTextOfAnItem:
    def items(self, folder: Path, settings: Settings, **item: object) -> tuple[str, ...]:
        (folder / "interactions.csv").write_text(LOG)
        (folder / "items.jsonl").write_text(json.dumps({"item_id": "tea"} | item) + "\n")
        ingest(settings, folder)
        return landed(settings, "items", "title, text, categories")[0]

    def test_has_no_numbers_links_flags_or_codes_and_says_so(
        self, folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = self.items(
            folder,
            settings,
            name="Green &amp; fresh",
            price="$3",
            rating=4.5,
            image="https://img.example/tea.jpg",
            adult=False,
            ean="4006381333931",
            language="en",
            details={"Brand": "Acme", "Weight": 5},
            plot="Grows on hills.",
            genres="[{'id': 16, 'name': 'Animation'}]",
        )
        assert found == ("Green & fresh", "Acme Grows on hills.", "Animation")
        said = capsys.readouterr().err
        assert "text is details, plot" in said
        assert "price (numbers)" in said and "image (links)" in said and "adult (flags)" in said

    def test_of_a_long_table_is_judged_by_what_rare_columns_hold(self, folder: Path, settings: Settings) -> None:
        (folder / "interactions.csv").write_text(LOG)
        rows = "".join(f"i{n},Tea {n} fresh,{n}.5,\n" for n in range(2500))
        (folder / "items.csv").write_text(f"item_id,title,price,note\n{rows}last,Tea,1.5,Grows on hills.\n")
        ingest(settings, folder)
        texts = {text for (text,) in landed(settings, "items", "text")}
        assert texts == {None, "Grows on hills."}

    def test_has_what_settings_name(self, folder: Path, workspace_settings: Make) -> None:
        settings = workspace_settings(data={"text_columns": ("price",)})
        assert self.items(folder, settings, title="Tea", price="$3", plot="Grows.")[1] == "$3"

    def test_a_title_of_nothing_but_a_number_stays(self, folder: Path, settings: Settings) -> None:
        assert self.items(folder, settings, title="[1917]", text="x y")[0] == "[1917]"

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("Toys &amp; Games; Garden", "Toys & Games|Garden"),
            ("Home > Kitchen > Pans", "Home|Kitchen|Pans"),
            ('["Toys & Games", "Garden"]', "Toys & Games|Garden"),
            ("[Comedy, Drama]", "Comedy|Drama"),
            ("{'a': 'Sci|Fi'}", "Sci/Fi"),
        ],
    )
    def test_categories_in_any_notation(self, given: str, kept: str, folder: Path, settings: Settings) -> None:
        assert self.items(folder, settings, category=given)[2] == kept

    def test_a_time_of_appearance_that_is_none_is_text(self, folder: Path, settings: Settings) -> None:
        assert self.items(folder, settings, title="Tea", release_date="Coming soon")[1] == "Coming soon"
