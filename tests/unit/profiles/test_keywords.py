"""The keyword engine on a world of two tastes: what it must find, what it must flag, and what it must never see."""

import numpy as np
import pytest
from scipy import sparse
from unit.profiles_world import ITEMS, warehouse

from reclm.dataset import Snapshot
from reclm.profiles import grammar, keywords
from reclm.profiles.snapshot_data import Catalogue, SnapshotData, load_catalogue, load_snapshot_data
from reclm.profiles.terms import item_terms, words_of
from reclm.settings.llm import ProfileSettings


def written(
    snapshot: Snapshot = "final", *, texts: bool = True, future: bool = False
) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """{id: (profile, flag)} of users and of items."""
    with warehouse(texts=texts, future=future) as connection:
        catalogue = load_catalogue(connection, 2000)
        data = load_snapshot_data(connection, snapshot, catalogue)
    users, items = keywords.write_profiles(data, item_terms(catalogue), ProfileSettings())
    return (
        dict(zip(data.user_ids, zip(users.texts, users.flags, strict=True), strict=True)),
        dict(zip(catalogue.item_ids, zip(items.texts, items.flags, strict=True), strict=True)),
    )


def phrases(profile: str) -> set[str]:
    parsed = grammar.parse(profile).profile
    assert parsed is not None
    return {phrase.casefold() for phrase in (*parsed.identity, *parsed.interests)}


class TestUsers:
    def test_a_profile_names_the_categories_of_the_history(self) -> None:
        users, _ = written()
        assert {"espresso enthusiast", "espresso", "filter coffee"} <= phrases(users["a"][0])
        assert {"hiking enthusiast", "hiking"} <= phrases(users["d"][0])

    def test_two_tastes_do_not_mix(self) -> None:
        users, _ = written()
        assert not {"hiking", "camping"} & phrases(users["a"][0])
        assert not {"espresso", "filter coffee"} & phrases(users["d"][0])

    def test_neighbours_add_what_a_sparse_history_lacks_and_come_second(self) -> None:
        users, _ = written()
        parsed = grammar.parse(users["f"][0]).profile
        assert parsed is not None
        assert parsed.identity[0] == "Camping enthusiast"
        assert "Hiking" in parsed.interests

    def test_a_user_without_history_is_flagged(self) -> None:
        users, _ = written()
        assert users["new"][1] == keywords.NO_HISTORY
        assert grammar.parse(users["new"][0]).ok
        assert [flag for user, (_, flag) in users.items() if user != "new"] == [""] * 6


class TestItems:
    def test_every_profile_follows_the_grammar_and_its_counts(self) -> None:
        users, items = written()
        for profile, _ in (*users.values(), *items.values()):
            parsed = grammar.parse(profile)
            assert parsed.ok, profile
        profile = grammar.parse(items["c0"][0]).profile
        assert profile is not None
        assert len(profile.interests) == 5

    def test_a_warm_item_without_text_gets_its_audience(self) -> None:
        _, items = written()
        assert items["blank"][1] == ""
        assert {"hiking", "camping"} & phrases(items["blank"][0])
        assert not {"espresso", "filter coffee"} & phrases(items["blank"][0])

    def test_a_cold_item_borrows_the_audience_of_its_text_neighbours(self) -> None:
        _, items = written()
        assert items["cold"][1] == ""
        assert "espresso enthusiast" in phrases(items["cold"][0])  # no category of its own, not a word of its text
        assert "hand grinder" in phrases(items["cold"][0]) or "grinder" in phrases(items["cold"][0])

    def test_an_item_without_text_and_audience_is_flagged(self) -> None:
        _, items = written()
        assert items["void"][1] == keywords.NO_TEXT
        assert [item for item, (_, flag) in items.items() if flag] == ["void"]

    def test_an_items_own_terms_are_not_counted_as_its_audiences_taste(self) -> None:
        """One user, two items: what the audience of the first likes besides it is the second alone."""
        catalogue = Catalogue(["x", "y"], ["", ""], [["Jazz"], ["Chess"]], ["", ""])
        terms = item_terms(catalogue)
        data = _snapshot_data(catalogue, sparse.csr_matrix(np.array([[1, 1], [0, 0]], dtype=np.float32)))
        own, background = keywords._own_shares(data, terms)
        scores = keywords._audience_scores(data, terms, own, background)
        jazz, chess = terms.phrases.index("Jazz"), terms.phrases.index("Chess")
        assert scores[0, chess] > scores[0, jazz]
        assert scores[1, jazz] > scores[1, chess]


def _snapshot_data(catalogue: Catalogue, histories: sparse.csr_matrix) -> SnapshotData:
    n_users, n_items = histories.shape
    return SnapshotData(
        snapshot="final",
        as_of=None,  # type: ignore[arg-type]
        user_ids=[str(user) for user in range(n_users)],
        catalogue=catalogue,
        histories=histories,
        user_neighbours=sparse.csr_matrix((n_users, n_users), dtype=np.float32),
        item_neighbours=sparse.csr_matrix((n_items, n_items), dtype=np.float32),
        user_bands=np.array(["0"] * n_users),
        item_bands=np.array(["0"] * n_items),
    )


class TestTeacher:
    @staticmethod
    def teacher_profiles() -> tuple[keywords.WrittenProfiles, keywords.WrittenProfiles]:
        """Four tea items, four climbing ones, and a kettle (8) that only climbers pick; user 4 has two items."""
        titles = [f"green tea {n}" for n in range(4)] + [f"climbing rope {n}" for n in range(4)] + ["green tea kettle"]
        catalogue = Catalogue([f"i{n}" for n in range(9)], titles, [[] for _ in titles], [""] * 9)
        picks = {0: [0, 1, 2, 3], 1: [0, 1, 2], 2: [4, 5, 6, 8], 3: [4, 5, 7, 8], 4: [4, 8], 5: [5, 6, 7, 8]}
        picks |= {user: [0, 1, 2] for user in range(6, 26)}  # most people drink tea
        rows, columns = zip(*((user, item) for user, items in picks.items() for item in items), strict=True)
        histories = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(26, 9))
        return keywords.write_teacher_profiles(
            _snapshot_data(catalogue, histories), item_terms(catalogue), ProfileSettings()
        )

    def test_names_terms_beyond_chance_and_describes_no_user_of_few_interactions(self) -> None:
        users, _ = self.teacher_profiles()
        assert "climbing rope" in phrases(users.texts[2]) and "tea" not in " ".join(phrases(users.texts[2]))
        assert (users.texts[4], users.flags[4]) == ("", keywords.NO_HISTORY)

    def test_describes_an_item_by_its_audience_and_not_by_its_text(self) -> None:
        _, items = self.teacher_profiles()
        assert "climbing rope" in phrases(items.texts[8]) and "tea" not in " ".join(phrases(items.texts[8]))
        assert items.flags[3] == keywords.NO_HISTORY  # one reader is no audience


class TestAnyScript:
    @staticmethod
    def item_profiles(titles: list[str], categories: list[list[str]]) -> list[str]:
        catalogue = Catalogue([f"i{n}" for n in range(len(titles))], titles, categories, [""] * len(titles))
        histories = sparse.csr_matrix(np.eye(len(titles), dtype=np.float32))
        written = keywords.write_profiles(
            _snapshot_data(catalogue, histories), item_terms(catalogue), ProfileSettings()
        )
        return written[1].texts

    @pytest.mark.parametrize(
        ("title", "term"),
        [
            ("园艺水管 0", "园艺水管"),
            ("ガーデン シャベル", "シャベル"),
            ("مقلاة للمطبخ", "للمطبخ"),
            ("אופניים ופעמון", "ופעמון"),
            ("Кисть для живописи", "Живописи"),
            ("हिन्दी किताब", "किताब"),
            ("หม้อหุงข้าว", "หุ"),
        ],
    )
    def test_a_title_gives_a_profile_with_its_words_whole(self, title: str, term: str) -> None:
        (profile, _) = self.item_profiles([title, "rake"], [[], []])
        assert grammar.parse(profile).ok
        assert term.casefold() in profile.casefold()

    def test_titles_without_blanks_meet_in_a_large_catalogue(self) -> None:
        titles = [f"第{n}款园艺水管套装加长版" for n in range(250)]
        titles[:40] = [f"厨房平底锅不粘锅{n}号升级款" for n in range(40)]
        terms = item_terms(Catalogue([str(n) for n in range(250)], titles, [[] for _ in titles], [""] * 250))
        assert "厨房" in terms.phrases

    def test_a_number_is_no_interest(self) -> None:
        (profile, other) = self.item_profiles(["Toy story", "适合11号"], [["16", "Animation"], ["35"]])
        assert "Animation" in profile and "16" not in profile
        assert "适合" in other and "11" not in other.replace("适合11号", "") and "35" not in other


class TestNoLeak:
    def test_rows_of_another_snapshot_change_nothing(self) -> None:
        assert written(future=True) == written(future=False)

    def test_the_earlier_snapshot_knows_less(self) -> None:
        with warehouse() as connection:
            catalogue = load_catalogue(connection, 2000)
            lengths = [
                load_snapshot_data(connection, name, catalogue).history_lengths.sum() for name in ("select", "final")
            ]
        assert lengths[0] < lengths[1]
        users, _ = written("select")
        assert users["f"][1] == keywords.NO_HISTORY
        assert "filter coffee" not in phrases(users["a"][0])


class TestHostileAndMissingTexts:
    def test_template_tokens_in_a_text_reach_no_profile(self) -> None:
        users, items = written()
        for profile, _ in (*users.values(), *items.values()):
            assert not set("<>[]") & set(profile)
            assert "inst" not in profile.casefold().split()

    def test_without_any_text_every_row_is_empty_and_flagged(self) -> None:
        users, items = written(texts=False)
        assert {profile for profile, _ in (*users.values(), *items.values())} == {""}
        assert {flag for _, flag in items.values()} == {keywords.NO_TEXT}
        assert users["a"][1] == keywords.NO_TEXT
        assert users["new"][1] == keywords.NO_HISTORY

    def test_a_word_that_is_a_categorys_name_is_not_a_second_term(self) -> None:
        terms = item_terms(Catalogue(["x"], ["Jazz guitar"], [["JAZZ"]], [""]))
        assert [phrase.casefold() for phrase in terms.phrases].count("jazz") == 1

    def test_categories_that_clean_to_one_phrase_are_one_term(self) -> None:
        terms = item_terms(Catalogue(["x", "y"], ["", ""], [["rock_music"], ["Rock music", ":;,"]], ["", ""]))
        assert len(terms.phrases) == 1
        np.testing.assert_allclose(terms.shares.toarray(), [[1], [1]])

    def test_words_of_a_text_leave_out_possessives_and_tags(self) -> None:
        assert words_of("The cat's <b>Äpfel</b> PS4 1999 rock-n-roll</s>") == [
            "the",
            "cat",
            "äpfel",
            "ps4",
            "rock-n-roll",
        ]


class TestManyRows:
    def test_the_size_of_a_block_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = written()
        monkeypatch.setattr(keywords, "BLOCK", 8)
        monkeypatch.setattr(keywords._blocks, "__defaults__", (2,))
        assert written() == whole

    def test_ties_go_to_the_lower_column(self) -> None:
        matrix = sparse.csr_matrix(np.array([[0.5, 0.5, 0.9, 0], [0, 0, 0, 0], [0, 0.1, 0.1, 0.1]], dtype=np.float32))
        cells, bounds = keywords._best_cells(matrix, matrix.data, 2)
        assert matrix.indices[cells].tolist() == [2, 0, 1, 2]
        assert bounds.tolist() == [0, 2, 2, 4]

    def test_items_are_read_in_item_order_and_users_in_text_order(self) -> None:
        with warehouse() as connection:
            catalogue = load_catalogue(connection, 5)
            data = load_snapshot_data(connection, "final", catalogue)
        assert catalogue.item_ids == list(ITEMS)
        assert data.user_ids == sorted(data.user_ids)
        assert max(map(len, catalogue.texts)) == 5
