"""The quality metrics on cases whose answer is plain."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.profiles_world import warehouse

from reclm.profiles import quality
from reclm.profiles.quality import Profiles
from reclm.profiles.snapshot_data import SnapshotData, load_catalogue, load_snapshot_data


def text(*interests: str) -> str:
    return f"User identity: someone; User interests: {', '.join(interests)}"


@pytest.fixture(scope="module")
def data() -> SnapshotData:
    with warehouse() as connection:
        return load_snapshot_data(connection, "final", load_catalogue(connection, 2000))


def users(data: SnapshotData, written: dict[str, str], flags: dict[str, str] | None = None) -> Profiles:
    """Profiles of all users, the empty text for those not named."""
    ids = data.user_ids
    texts = [written.get(user, "") for user in ids]
    return Profiles("user", ids, texts, [(flags or {}).get(user, "") for user in ids], data.user_bands)


def values(profiles: Profiles, data: SnapshotData, metric: str, truth: Path | None = None) -> dict[str, float]:
    """{severity: value} of one metric."""
    rows = quality.measure(profiles, data, truth, seed=1)
    return {str(row["severity"]): float(row["value"]) for row in rows if row["metric"] == metric}


class TestCoverageAndFormat:
    def test_coverage_is_the_share_without_a_flag_and_format_the_share_that_parses(self, data: SnapshotData) -> None:
        profiles = users(data, dict.fromkeys("abcdef", text("x")), {"new": "no_history", "f": "no_text"})
        assert values(profiles, data, "coverage")["all"] == pytest.approx(5 / 7)
        assert values(profiles, data, "format")["all"] == 1
        assert values(profiles, data, "coverage")["0"] == 0

    def test_an_empty_text_breaks_the_format_unless_a_flag_says_that_nothing_was_known(
        self, data: SnapshotData
    ) -> None:
        flagged = dict.fromkeys(data.user_ids, "no_text")
        assert values(users(data, dict.fromkeys("abcdef", text("x"))), data, "format")["all"] == pytest.approx(6 / 7)
        assert values(users(data, {}, flagged), data, "format") == {}
        assert values(users(data, {"a": "no labels"}, flagged), data, "format")["all"] == 0

    def test_bands_add_up_to_all(self, data: SnapshotData) -> None:
        profiles = users(data, {user: text(user, "boots") for user in "abcdef"})
        rows = quality.measure(profiles, data, None, seed=1)
        for metric in {row["metric"] for row in rows}:
            of_metric = {row["severity"]: row for row in rows if row["metric"] == metric}
            whole = of_metric.pop("all")
            assert sum(int(row["n"]) for row in of_metric.values()) == whole["n"]
            total = sum(float(row["value"]) * int(row["n"]) for row in of_metric.values())
            assert total == pytest.approx(float(whole["value"]) * int(whole["n"]))


class TestOverSmoothing:
    def test_the_mean_of_distinctness_is_the_share_of_distinct_texts(self) -> None:
        assert quality.distinctness(["x", "x", "y", "x"]).mean() == pytest.approx(2 / 4)

    def test_equal_profiles_are_nearest_at_one_and_unlike_ones_at_zero(self) -> None:
        usable = np.array([True, True, True, False])
        near = quality.nearest_similarity([text("jazz"), text("jazz"), text("jazz"), text("jazz")], usable, seed=0)
        assert near[:3].tolist() == pytest.approx([1, 1, 1])
        assert np.isnan(near[3])
        alone = [f"User identity: p{i}; User interests: q{i}, r{i}" for i in range(4)]
        assert quality.nearest_similarity(alone, np.ones(4, bool), seed=0).tolist() == pytest.approx([0] * 4)

    def test_large_sets_are_sampled_by_the_seed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quality, "SAMPLE", 10)
        texts = [text(f"word{i}") for i in range(50)]
        first = quality.nearest_similarity(texts, np.ones(50, bool), seed=3)
        assert np.isfinite(first).sum() == 10
        np.testing.assert_array_equal(first, quality.nearest_similarity(texts, np.ones(50, bool), seed=3))


class TestFaithfulness:
    def test_only_phrases_with_every_word_in_the_history_count(self, data: SnapshotData) -> None:
        profiles = users(data, {"a": text("Filter Coffee", "espresso", "burr trail", "boots")})
        assert values(profiles, data, "faithfulness")["all"] == pytest.approx(2 / 4)

    def test_a_word_from_another_users_history_is_no_support(self, data: SnapshotData) -> None:
        profiles = users(data, {"a": text("hiking"), "d": text("hiking")})
        assert values(profiles, data, "faithfulness")["all"] == pytest.approx(1 / 2)

    def test_items_are_compared_with_their_own_text(self, data: SnapshotData) -> None:
        ids = data.catalogue.item_ids
        texts = [text("burr grinder", "hiking") for _ in ids]
        profiles = Profiles("item", ids, texts, [""] * len(ids), data.item_bands)
        expected = (0.5 + 0.5 + 0.5) / len(ids)  # c0 by its words, h0 and h2 by their category
        assert values(profiles, data, "text_support")["all"] == pytest.approx(expected)


class TestTruth:
    def test_f1_of_a_known_case(self) -> None:
        precision, recall, f1 = quality.interest_scores(
            [("Home coffee", "jazz", "chess", "running shoes"), ("x",), None, ("a",)],
            [("coffee", "Jazz music", "tea"), ("y",), ("z",), None],
        )
        assert precision[0] == pytest.approx(2 / 4)
        assert recall[0] == pytest.approx(2 / 3)
        assert f1[0] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
        assert f1[1] == 0
        assert np.isnan(f1[2:]).all()

    @pytest.mark.parametrize(
        ("written", "true", "matches"),
        [
            ("coffee", "home coffee", True),
            ("Sci-Fi", "sci fi films", True),
            ("trail boots", "trail boot", True),
            ("home garden", "home office", False),
            ("red wine tasting", "red wine cellar", True),
            ("boss", "bos", False),
        ],
    )
    def test_two_phrases_match_by_containment_or_half_of_their_words(
        self, written: str, true: str, matches: bool
    ) -> None:
        _, _, f1 = quality.interest_scores([(written,)], [(true,)])
        assert (f1[0] == 1) == matches

    def test_the_truth_of_the_demo_data_is_read_when_it_exists(self, data: SnapshotData, tmp_path: Path) -> None:
        profiles = users(data, {"a": text("coffee"), "d": text("coffee")})
        assert values(profiles, data, "interests_f1", tmp_path) == {}
        table = pa.table({"user_id": ["a", "d"], "interests": [["coffee"], ["hiking"]]})
        pq.write_table(table, tmp_path / "user_personas.parquet")
        assert values(profiles, data, "interests_f1", tmp_path)["all"] == pytest.approx(1 / 2)
        assert values(profiles, data, "interests_f1", tmp_path)["1-3"] == 1
