"""What is measured of held-out users and items, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_world import dialogues, documents, teacher, tiny_base
from model_families import FAMILIES, checkpoint
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from reclm.llm.models.loading import load_model, load_tokenizer
from reclm.llm.prompts.corpus import first_prompts, question
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import Facts, Message, UserFacts, answer, profile_request
from reclm.llm.prompts.shape import shape_of
from reclm.llm.prompts.templates import encode, token_counter
from reclm.llm.tuning import heldout
from reclm.settings.loading import load
from reclm.settings.tree import Settings

HELD_OUT = [d for d in dialogues() if d.fold == "held_out"]
USERS = [d for d in HELD_OUT if d.kind == "user"]


def settings_of(folder: Path, **tune: object) -> Settings:
    return Settings(workspace=folder, runtime={"threads": 1, "device": "cpu"}, tune=tune)


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Each text on an axis of its own; any text that begins alike shares it."""
    axes = {text: axis for axis, text in enumerate(sorted({text[:30] for text in texts} | set(PROFILES)))}
    found = np.zeros((len(texts), 64), dtype=np.float32)
    for row, text in enumerate(texts):
        found[row, axes[text[:30]]] = 1
    return found


PROFILES = {(teacher().of("user", d.entity_id) or "")[:30] for d in USERS}


def values(rows: Sequence[heldout.Row]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


class TestSample:
    def test_takes_each_held_out_entity_once_as_it_is_served(self) -> None:
        sparse = [replace(d, dialogue_id=f"{d.dialogue_id}-1", view=1) for d in dialogues()]
        found = heldout.sample([*sparse, *dialogues()], teacher(), "user", 100, 1)
        assert found == USERS

    def test_draws_the_same_few_each_time(self) -> None:
        first, again = (heldout.sample(dialogues(), teacher(), "user", 5, 3) for _ in range(2))
        assert first == again
        assert len(first) == 5


class StoredProfiles:
    """A teacher with these profiles."""

    def __init__(self, profiles: dict[str, str]) -> None:
        self.profiles = profiles

    def of(self, kind: str, entity_id: str, snapshot: str = "select") -> str | None:
        return self.profiles.get(entity_id)


class TestProfileRows:
    """Three users whose profiles lie on axes of their own; the answers are right, another's, and not well formed."""

    FORM = "User identity: {0}; User interests: {0}"

    @pytest.fixture
    def rows(self) -> list[heldout.Row]:
        a, b, c, n = (self.FORM.format(letter) for letter in "abcn")
        source = StoredProfiles({"ua": a, "ub": b, "uc": c, "n": n})
        found = [
            replace(USERS[0], entity_id="ua", neighbour_ids=("unknown", "ub")),
            replace(USERS[0], entity_id="ub", neighbour_ids=("n",)),
            replace(USERS[0], entity_id="uc", neighbour_ids=()),
        ]
        axes = {a: 0, b: 1, c: 2, n: 3, "nonsense": 4}

        def on_axes(texts: Sequence[str]) -> NDArray[np.float32]:
            return np.eye(5, dtype=np.float32)[[axes[text] for text in texts]]

        return heldout.profile_rows("user", found, [a, a, "nonsense"], source, on_axes, {"ub", "n"})

    def test_equal_values_computed_by_hand(self, rows: list[heldout.Row]) -> None:
        assert values(rows) == pytest.approx(
            {
                "format": 2 / 3,
                "own_similarity": 1 / 3,
                "other_similarity": (0 + 1 / 2 + 0) / 3,
                "own_minus_other": (1 - 1 / 2 + 0) / 3,
                "distinct": (1 / 2 + 1 / 2 + 1) / 3,
                "teacher_distinct": 1.0,
                "copy_neighbour": 0.0,
                "copy_neighbour_minus_other": (-1 / 2 + 0) / 2,
            }
        )

    def test_carry_their_standard_error_and_count(self, rows: list[heldout.Row]) -> None:
        by_name = {row["metric"]: row for row in rows}
        assert by_name["own_similarity"]["error"] == pytest.approx(np.std([1, 0, 0], ddof=1) / np.sqrt(3))
        assert (by_name["format"]["n"], by_name["copy_neighbour"]["n"]) == (3, 2)

    def test_only_train_neighbours_are_copied(self) -> None:
        found = [replace(USERS[0], entity_id=f"u{row}", neighbour_ids=("held out", "n")) for row in range(2)]
        source = StoredProfiles({one: self.FORM.format(one) for one in ("u0", "u1", "held out", "n")})

        def embed_letters(texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([[float("held out" in text), 1.0] for text in texts], dtype=np.float32)

        copied = values(heldout.profile_rows("user", found, ["x", "x"], source, embed_letters, {"n"}))
        assert copied["copy_neighbour"] == 1.0
        assert "copy_neighbour" not in values(heldout.profile_rows("user", found, ["x", "x"], source, embed_letters))

    def test_the_same_profile_for_all_has_no_own_minus_other(self) -> None:
        same = [teacher().of("user", USERS[0].entity_id) or ""] * len(USERS)
        found = values(heldout.profile_rows("user", USERS, same, teacher(), embed))
        assert found["format"] == 1.0
        assert found["own_minus_other"] < 0.1
        assert found["distinct"] == pytest.approx(1 / len(USERS))


class TestTurnTwo:
    def test_a_good_model_beats_one_that_always_answers_yes(self) -> None:
        knows = np.array([0.9 if d.answer else 0.1 for d in USERS])
        found = values(heldout.turn_two_rows("user", USERS, knows, dialogues()))
        yes = float(np.mean([d.answer for d in USERS]))
        assert (found["turn2_accuracy"], found["turn2_auc"]) == (1.0, 1.0)
        assert (found["turn2_accuracy_always_yes"], found["turn2_auc_always_yes"]) == (pytest.approx(yes), 0.5)

    def test_baselines_take_their_threshold_from_train_dialogues(self) -> None:
        train = [replace(d, popularity=p, answer=p > 3) for p, d in enumerate(USERS[:8])]
        dialogues = [
            replace(d, popularity=p, answer=a) for d, p, a in zip(USERS, (3, 4, 5), (True, True, False), strict=False)
        ]
        found = values(heldout.turn_two_rows("user", dialogues, np.zeros(3), train))
        assert found["turn2_accuracy_popularity"] == pytest.approx(1 / 3)
        assert found["turn2_auc_popularity"] == pytest.approx(0.0)

    def test_auc_is_scikit_learns_ties_included(self) -> None:
        rng = np.random.default_rng(1)
        scores, truth = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
        area, error = heldout.auc(scores, truth)
        assert area == pytest.approx(roc_auc_score(truth, scores))
        assert 0.03 < error < 0.12

    @pytest.mark.parametrize(
        ("scores", "answers", "threshold"),
        [([1, 2, 3, 4], [0, 0, 1, 1], 2), ([1, 1, 1], [1, 1, 0], -np.inf), ([1, 2], [0, 0], 2)],
    )
    def test_best_threshold_is_right_most_often(
        self, scores: list[float], answers: list[int], threshold: float
    ) -> None:
        assert heldout.best_threshold(np.array(scores, dtype=float), np.array(answers, dtype=bool)) == threshold


@pytest.fixture(scope="module", params=["tiny", *FAMILIES])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp(request.param)
    return tiny_base(at) if request.param == "tiny" else checkpoint(request.param, at / "model", documents())


class TestBatches:
    """Batches with padding say what one prompt at a time says."""

    def conversations(self) -> list[list[Message]]:
        return [
            [*profile_request(d.facts, "compact"), {"role": "assistant", "content": "a, b"}, question(d, "compact")]
            for d in HELD_OUT
        ]

    def test_probability_of_yes_is_the_softmax_over_both_words(self, folder: Path, tmp_path: Path) -> None:
        tokenizer, model = load_tokenizer(folder), load_model(folder, settings_of(tmp_path))
        found = heldout.yes_probabilities(model, tokenizer, self.conversations(), 7)
        for messages, probability in list(zip(self.conversations(), found, strict=True))[:3]:
            ids = encode(tokenizer, messages)
            yes, no = (tokenizer(answer(a)["content"], add_special_tokens=False)["input_ids"][0] for a in (True, False))
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            assert logits[[yes, no]].softmax(0)[0].item() == pytest.approx(probability, abs=1e-4)

    def test_answers_do_not_depend_on_the_batch(self, folder: Path, tmp_path: Path) -> None:
        tokenizer, model = load_tokenizer(folder), load_model(folder, settings_of(tmp_path))
        prompts = [messages[:-2] for messages in self.conversations()][:9]
        together, one_by_one = (
            heldout.write_answers(
                load((f"profiles.batch_size={size}", "llm.max_profile_tokens=8"), workspace=tmp_path),
                model,
                tokenizer,
                prompts,
                structured=False,
            )
            for size in (4, 1)
        )
        assert together == one_by_one


class TestMeasure:
    def test_a_perfect_writer_scores_higher_than_one_who_copies(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, settings = tiny_base(tmp_path), settings_of(tmp_path / "w", held_out_sample=50)
        model, tokenizer = load_model(folder, settings), load_tokenizer(folder)
        shape, count = shape_of(settings), token_counter(tokenizer)
        right = {
            str(prompt): teacher().of(d.kind, d.entity_id)
            for served in (False, True)
            for d, prompt in zip(HELD_OUT, first_prompts(HELD_OUT, shape, count, served=served), strict=True)
        }
        monkeypatch.setattr(
            heldout, "write_answers", lambda _, __, ___, prompts, **how: [right[str(p)] for p in prompts]
        )
        rows = heldout.measure(settings, dialogues(), teacher(), model, tokenizer)
        found = {(row["metric"], row["kind"]): row["value"] for row in rows}
        for kind in ("user", "item"):
            assert found["format", kind] == 1.0
            assert found["own_similarity", kind] == pytest.approx(1.0, abs=1e-5)
            assert found["own_minus_other", kind] > found["copy_neighbour_minus_other", kind]
        names = {"turn2_accuracy", "turn2_auc", "turn2_auc_itemknn", "turn2_accuracy_popularity"}
        assert names <= {row["metric"] for row in rows}

    def test_single_turn_tuning_has_no_turn_two_metrics(self, tmp_path: Path) -> None:
        folder, settings = tiny_base(tmp_path), settings_of(tmp_path / "w", held_out_sample=3, turns="one")
        model, tokenizer = load_model(folder, settings), load_tokenizer(folder)
        rows = heldout.measure(settings, dialogues(), teacher(), model, tokenizer)
        assert not [row for row in rows if row["metric"].startswith("turn2")]

    @pytest.mark.parametrize("turns", ["two", "one"])
    def test_profiles_are_written_as_served_and_again_without_the_withheld_item(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: str
    ) -> None:
        folder, settings = tiny_base(tmp_path), settings_of(tmp_path / "w", held_out_sample=50, turns=turns)
        requested, measured, questions = [], [], []

        def write(*arguments: object, structured: bool) -> list[str]:
            prompts = [prompt[-1]["content"] for prompt in arguments[3]]  # type: ignore[attr-defined]
            requested.append((structured, prompts))
            return [f"User identity: of {prompt}; User interests: x" for prompt in prompts]

        def probabilities(*arguments: object) -> NDArray[np.float64]:
            questions.extend(arguments[2])  # type: ignore[arg-type]
            return np.linspace(0, 1, len(arguments[2]))  # type: ignore[arg-type]

        monkeypatch.setattr(heldout, "write_answers", write)
        monkeypatch.setattr(heldout, "yes_probabilities", probabilities)
        monkeypatch.setattr(heldout, "profile_rows", lambda *arguments: measured.append(arguments[2]) or [])
        # served another order and other neighbours than the dialogue knows, as the marts do
        known = [replace(d, served=turned(d.served)) if d.kind == "user" else d for d in dialogues()]
        found = heldout.measure(settings, known, teacher(), None, load_tokenizer(folder))  # type: ignore[arg-type]
        users = [d for d in known if d.kind == "user" and d.fold == "held_out" and new_to_training(d)]
        shape = shape_of(settings)
        whole, masked = (
            [prompt[-1]["content"] for prompt in first_prompts(users, shape, lambda _: 0, served=served)]
            for served in (True, False)
        )
        assert not set(whole) & set(masked)
        two = turns == "two"
        assert requested[0] == (True, list(dict.fromkeys(whole + masked * two)))
        assert requested[1] == (False, whole)
        assert measured[0] == [f"User identity: of {prompt}; User interests: x" for prompt in whole]
        distinct = values([row for row in found if row["kind"] == "user"])["prompt_distinct"]
        assert distinct == pytest.approx(len(set(whole)) / len(whole))
        users = [messages for messages in questions if messages[0]["content"] in masked]
        assert [messages[0]["content"] for messages in users] == masked * two
        assert all(f"of {messages[0]['content']};" in messages[1]["content"] for messages in users)

    def test_a_whole_history_that_was_shown_in_training_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, settings = tiny_base(tmp_path), settings_of(tmp_path / "w", held_out_sample=50, turns="one")
        monkeypatch.setattr(heldout, "write_answers", lambda *arguments, **how: ["x"] * len(arguments[3]))
        first = next(d for d in dialogues() if d.kind == "user" and d.fold == "train")
        new = [dialogue for dialogue in USERS if new_to_training(dialogue)]
        shown = replace(first, dialogue_id="again", facts=turned(new[0].served))
        model: Any = None  # write_answers is replaced
        counts = [
            next(
                row["n"]
                for row in heldout.measure(settings, known, teacher(), model, load_tokenizer(folder))
                if (row["metric"], row["kind"]) == ("format", "user")
            )
            for known in (dialogues(), [*dialogues(), shown])
        ]
        assert counts == [len(new), len(new) - 1]


def new_to_training(dialogue: Dialogue) -> bool:
    """Nobody's history as training shows it is this one's whole history."""
    shown = [set(d.facts.history) for d in dialogues() if d.fold == "train" and isinstance(d.facts, UserFacts)]
    return isinstance(dialogue.served, UserFacts) and set(dialogue.served.history) not in shown


def turned(facts: Facts) -> UserFacts:
    """The same history from its other end, among other neighbours."""
    assert isinstance(facts, UserFacts)
    return UserFacts(facts.history[::-1], (("Tea: pot",),))
