"""Two models at once: users keep their arm, shares are as asked, and a shared list favours neither model."""

from __future__ import annotations

from collections import Counter

import pytest

from reclm.trials.assignment import CHALLENGER, CHAMPION, assign
from reclm.trials.interleaving import team_draft

USERS = [f"user {n}" for n in range(4000)]


class TestSplitting:
    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_gives_the_challenger_its_share(self, share: float) -> None:
        arms = Counter(assign(user, "version", share) for user in USERS)
        assert arms[CHALLENGER] / len(USERS) == pytest.approx(share, abs=0.02)

    def test_keeps_a_user_with_an_arm_when_the_share_grows(self) -> None:
        few, more = ({user for user in USERS if assign(user, "v", share) == CHALLENGER} for share in (0.1, 0.3))
        assert few < more

    def test_splits_anew_for_another_challenger(self) -> None:
        both = [user for user in USERS if assign(user, "one", 0.5) == assign(user, "other", 0.5)]
        assert len(both) / len(USERS) == pytest.approx(0.5, abs=0.03)

    def test_share_zero_and_one_leave_nobody_with_the_other_model(self) -> None:
        assert {assign(user, "v", 0.0) for user in USERS} == {CHAMPION}
        assert {assign(user, "v", 1.0) for user in USERS} == {CHALLENGER}


class TestTeamDraft:
    def test_each_arm_picks_its_best_item_that_is_left(self) -> None:
        drafted = team_draft(["a", "b", "c"], ["b", "d", "a"], 4, "request")
        if drafted[0] == ("a", CHAMPION):
            assert drafted[1] == ("b", CHALLENGER)
        else:
            assert drafted[:2] == [("b", CHALLENGER), ("a", CHAMPION)]
        assert {item for item, _ in drafted} == {"a", "b", "c", "d"}

    def test_arms_take_turns_and_either_may_begin(self) -> None:
        lists = [team_draft(range(0, 10), range(10, 20), 6, user) for user in USERS]
        assert all(Counter(arm for _, arm in drafted)[CHAMPION] == 3 for drafted in lists)
        first = Counter(drafted[0][1] for drafted in lists)
        assert first[CHAMPION] / len(USERS) == pytest.approx(0.5, abs=0.03)

    def test_two_equal_rankings_give_that_ranking_and_equal_teams(self) -> None:
        lists = [team_draft(range(10), range(10), 5, user) for user in USERS]
        assert {tuple(item for item, _ in drafted) for drafted in lists} == {tuple(range(5))}
        share = Counter(drafted[0][1] for drafted in lists)[CHALLENGER] / len(USERS)
        assert share == pytest.approx(0.5, abs=0.03)

    def test_the_same_request_gives_the_same_list(self) -> None:
        assert team_draft(range(9), range(5, 14), 6, "r") == team_draft(range(9), range(5, 14), 6, "r")

    def test_a_ranking_that_ends_leaves_the_rest_to_the_other(self) -> None:
        assert {item for item, _ in team_draft([1], [2, 3, 4], 9, "r")} == {1, 2, 3, 4}
        assert team_draft([], [], 3, "r") == []
