"""Reward pairs: what is rejected, at which rates, and what is kept out of the train fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from reclm.llm.reward.pairs import NEGATIVES, SAME, Pair, dialogues_fingerprint, make_pairs, phrases_of
from reclm.profiles import grammar
from reclm.profiles.grammar import Profile
from reclm.settings.tree import Settings
from tests import llm_world

Make = Callable[..., Settings]


@pytest.fixture
def pairs(workspace_settings: Make) -> list[Pair]:
    return make_pairs(llm_world.dialogues(), llm_world.teacher(), workspace_settings())


def rejected(pairs: list[Pair], negative: str) -> list[Pair]:
    found = [pair for pair in pairs if pair.negative == negative]
    assert found
    return found


def profile(text: str) -> Profile:
    found = grammar.parse(text).profile
    assert found is not None
    return found


class TestThePreferredAnswer:
    def test_is_the_entitys_own_teacher_profile(self, pairs: list[Pair]) -> None:
        assert all(pair.chosen == llm_world.teacher().of(pair.kind, pair.entity_id) for pair in pairs)

    def test_is_never_the_rejected_one(self, pairs: list[Pair]) -> None:
        assert all(pair.chosen != pair.rejected for pair in pairs)


class TestTheNegatives:
    def test_of_a_neighbour_are_its_profile_unless_that_says_the_same(self, pairs: list[Pair]) -> None:
        near = {(d.kind, d.entity_id): d.neighbour_ids for d in llm_world.dialogues()}
        for pair in rejected(pairs, "neighbour"):
            texts = {llm_world.teacher().of(pair.kind, other) for other in near[pair.kind, pair.entity_id]}
            own, other = phrases_of(profile(pair.chosen)), phrases_of(profile(pair.rejected))
            assert pair.rejected in texts
            assert len(own & other) <= SAME * len(own | other)

    def test_that_are_mixed_parse_and_keep_a_part_of_the_own_phrases(self, pairs: list[Pair]) -> None:
        for pair in rejected(pairs, "mixed"):
            own, mixed = phrases_of(profile(pair.chosen)), phrases_of(profile(pair.rejected))
            assert own & mixed
            assert mixed - own

    def test_that_are_truncated_begin_as_the_own_one_does(self, pairs: list[Pair]) -> None:
        assert all(pair.chosen.startswith(pair.rejected) for pair in rejected(pairs, "truncated"))

    def test_that_are_duplicated_name_a_phrase_twice(self, pairs: list[Pair]) -> None:
        for pair in rejected(pairs, "duplicated"):
            phrases = [p.strip() for part in pair.rejected.split(";") for p in part.split(":")[1].split(",")]
            assert len(set(phrases)) < len(phrases)
        assert any(grammar.parse(pair.rejected).status == grammar.DUPLICATED for pair in rejected(pairs, "duplicated"))

    def test_that_are_empty_parse_as_empty(self, pairs: list[Pair]) -> None:
        assert {grammar.parse(pair.rejected).status for pair in rejected(pairs, "empty")} == {grammar.EMPTY}


class TestRates:
    def test_of_one_kind_make_only_that_kind(self, workspace_settings: Make) -> None:
        only = dict.fromkeys(NEGATIVES, 0.0) | {"mixed": 1.0}
        found = make_pairs(llm_world.dialogues(), llm_world.teacher(), workspace_settings(reward=only))
        assert {pair.negative for pair in found} == {"mixed"}

    def test_are_kept_where_every_kind_can_be_made(self, workspace_settings: Make) -> None:
        even = {"neighbour": 0.0, "mixed": 0.25, "truncated": 0.25, "duplicated": 0.25, "empty": 0.25}
        found = make_pairs(llm_world.dialogues(), llm_world.teacher(), workspace_settings(reward=even))
        shares = {kind: n / len(found) for kind, n in Counter(pair.negative for pair in found).items()}
        assert all(0.15 < share < 0.35 for share in shares.values())

    def test_stop_at_the_number_of_pairs_wanted(self, workspace_settings: Make) -> None:
        found = make_pairs(llm_world.dialogues(), llm_world.teacher(), workspace_settings(reward={"pairs": 30}))
        assert Counter(pair.fold for pair in found) == {"train": 30, "held_out": 10}


class TestHeldOutEntities:
    def test_are_in_no_pair_of_the_train_fold(self, pairs: list[Pair]) -> None:
        train = {pair.entity_id for pair in pairs if pair.fold == "train"}
        held_out = {pair.entity_id for pair in pairs if pair.fold == "held_out"}
        assert not train & held_out

    def test_are_no_negatives_of_the_train_fold(self, workspace_settings: Make) -> None:
        secret = Profile(("never seen",), ("never heard",))
        dialogues = list(llm_world.dialogues())
        hidden = {(d.kind, d.entity_id) for d in dialogues if d.fold == "held_out"}

        class Teacher:
            def of(self, kind: str, entity_id: str, snapshot: str = "select") -> str | None:
                if (kind, entity_id) in hidden:
                    return grammar.render(secret)
                return llm_world.teacher().of(kind, entity_id)  # type: ignore[arg-type]

        found = make_pairs(dialogues, Teacher(), workspace_settings())
        assert not [p for p in found if p.fold == "train" and "never" in p.chosen + p.rejected]

    def test_without_a_teacher_profile_give_no_pair(self, workspace_settings: Make) -> None:
        unknown = [replace(dialogue, entity_id="unknown") for dialogue in llm_world.dialogues()]
        assert make_pairs(unknown, llm_world.teacher(), workspace_settings()) == []


class TestTheSameSettings:
    def test_make_the_same_pairs(self, workspace_settings: Make, pairs: list[Pair]) -> None:
        assert make_pairs(llm_world.dialogues(), llm_world.teacher(), workspace_settings()) == pairs

    def test_with_another_seed_make_others(self, workspace_settings: Make, pairs: list[Pair]) -> None:
        assert make_pairs(llm_world.dialogues(), llm_world.teacher(), workspace_settings(seed=99)) != pairs

    def test_have_one_fingerprint_that_another_dialogue_changes(self) -> None:
        dialogues = llm_world.dialogues()
        assert dialogues_fingerprint(dialogues, llm_world.teacher()) == dialogues_fingerprint(
            list(dialogues), llm_world.teacher()
        )
        assert dialogues_fingerprint(dialogues, llm_world.teacher()) != dialogues_fingerprint(
            dialogues[1:], llm_world.teacher()
        )
