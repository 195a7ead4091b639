"""What is taken as the profile in the answer of a talkative model, and what is not."""

from __future__ import annotations

import json

import pytest

from reclm.profiles import grammar
from reclm.profiles.extraction import profile_in
from reclm.profiles.grammar import Profile, render

PROFILE = "User identity: home cook, gardener; User interests: herbs, sharp knives"
OTHER = "User identity: painter; User interests: oils"
PARTS = {"identity": ["home cook", "gardener"], "interests": ["herbs", "sharp knives"]}


class TestTakes:
    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(PROFILE, id="alone"),
            pytest.param(f"<think>They cook. {OTHER}?</think>\n\n{PROFILE}", id="after a thought"),
            pytest.param(f"They cook; {OTHER}\n</think>{PROFILE}", id="a thought whose begin the template wrote"),
            pytest.param(f"<THINKING>\n{OTHER}\n</THINKING>\n{PROFILE}", id="another name of thoughts"),
            pytest.param(f"Sure! Here is the profile:\n\n{PROFILE}\n\nLet me know if it helps.", id="talk around it"),
            pytest.param(f"Profile: {PROFILE}", id="a preface in its line"),
            pytest.param(f"```\n{PROFILE}\n```", id="a fence"),
            pytest.param(f"```text\n{PROFILE}.\n```", id="a fence with a language, and a full stop"),
            pytest.param(f"**{PROFILE}**", id="bold"),
            pytest.param(f"*{PROFILE}*", id="italics"),
            pytest.param(PROFILE.replace("User i", "**User i").replace(":", ":**"), id="bold labels"),
            pytest.param(f'Answer: "{PROFILE}"', id="quotes"),
            pytest.param(f"- {PROFILE}", id="a bullet"),
            pytest.param(f"<answer>{PROFILE}</answer><|im_end|>", id="tags and tokens"),
            pytest.param(PROFILE.replace("; ", "\n"), id="two lines"),
            pytest.param(f"Here:\n\n{PROFILE.replace('; ', ';' + chr(10))}\nDone.", id="two lines in talk"),
            pytest.param(json.dumps({"profile": PROFILE}), id="JSON around it"),
            pytest.param(f"```json\n{json.dumps([{'answer': {'text': PROFILE}}], indent=1)}\n```", id="nested JSON"),
            pytest.param(f"Here it is: {json.dumps(PARTS)} Enjoy!", id="its parts as JSON"),
            pytest.param(json.dumps({"User identity": "home cook, gardener", "user_interests": PARTS["interests"]}),
                         id="labels as keys"),
            pytest.param(f"{PROFILE}\n\nOnce more:\n{PROFILE}", id="twice the same"),
        ],
    )  # fmt: skip
    def test_the_profile_in(self, answer: str) -> None:
        assert profile_in(answer) == PROFILE

    def test_a_profile_as_it_is(self) -> None:
        answer = "User identity:  a ;  User interests: x."
        assert profile_in(f" {answer}\n") == answer

    def test_its_own_answer_again(self) -> None:
        assert profile_in(profile_in(f"**{PROFILE}**")) == PROFILE


class TestLeavesAsTheyAre:
    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param("", id="nothing"),
            pytest.param("I would rather talk about the weather.", id="talk"),
            pytest.param(f"{PROFILE}\n{OTHER}", id="two different profiles"),
            pytest.param(f"<think>{PROFILE}", id="a thought that was cut off"),
            pytest.param(f"<think>{PROFILE}</think>", id="a thought without an answer"),
            pytest.param("User identity: home cook; User interests:", id="no interests"),
            pytest.param("User identity: home cook\nSomething else\nUser interests: herbs", id="parts far apart"),
            pytest.param("user identity: cook; user interests: herbs", id="other labels"),
            pytest.param(f"{{{'[' * 2000}", id="brackets without an end"),
            pytest.param(json.dumps({"identity": [], "interests": ["herbs"]}), id="JSON without an identity"),
            pytest.param(json.dumps({"identity": {"a": 1}, "interests": ["herbs"]}), id="JSON of another form"),
        ],
    )
    def test_answers_without_exactly_one_profile(self, answer: str) -> None:
        assert profile_in(answer) == answer.strip()
        assert not grammar.parse(profile_in(answer)).ok


def test_what_is_taken_obeys_the_grammar() -> None:
    profile = grammar.parse(profile_in(f"> **{PROFILE}**")).profile
    assert profile == Profile(("home cook", "gardener"), ("herbs", "sharp knives"))
    assert render(profile) == PROFILE
