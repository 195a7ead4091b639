"""Reward models: what they prefer, what they read, what they leave on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reclm.errors import ModelError
from reclm.llm.models.loading import load_tokenizer
from reclm.llm.prompts.messages import ItemFacts, UserFacts, profile_request
from reclm.llm.prompts.parsing import Reading, Splitter, read_phrases, read_request, with_known_facts
from reclm.llm.prompts.templates import prompt_and_answer, render
from reclm.llm.reward.encoder import CACHED_TEXTS, EncoderReward, TextCache, load_encoder_reward
from reclm.llm.reward.encoder_training import train_encoder_reward
from reclm.llm.reward.model import distinct_requests, score_shared
from reclm.llm.reward.pairs import Pair, make_pairs
from reclm.llm.reward.stage import accuracy_rows, load_reward, write_reward
from reclm.settings.tree import Settings
from reclm.text.encoder import load_encoder
from tests import llm_world

Make = Callable[..., Settings]
USER = UserFacts(("Jazz: Turntable", "Chess: Puzzle deck"), (("Jazz: Club poster",), ("Jazz: Trumpet mute", "Tea")))
ITEM = ItemFacts("Jazz: Turntable", "A turntable. Who is it?", (("Jazz: Club poster", "live music, jazz"), ("Tea", "")))
OWN = "User identity: vinyl collector; User interests: analogue sound, tactics"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Pair], EncoderReward]:
    settings = Settings(workspace=tmp_path_factory.mktemp("reward"))
    pairs = make_pairs(llm_world.dialogues(), llm_world.teacher(), settings)
    return settings, pairs, train_encoder_reward(settings, pairs)[0]


class TestARequestIsReadBack:
    @pytest.mark.parametrize("style", ["compact", "full"])
    def test_about_a_user(self, style: str) -> None:
        reading = read_request(profile_request(USER, style))  # type: ignore[arg-type]
        assert reading.kind == "user"
        assert reading.own == USER.history
        assert reading.neighbours == ("Jazz: Club poster", "Jazz: Trumpet mute", "Tea")

    @pytest.mark.parametrize("style", ["compact", "full"])
    def test_about_an_item_whose_text_asks_our_own_question(self, style: str) -> None:
        reading = read_request(profile_request(ITEM, style))  # type: ignore[arg-type]
        assert reading.kind == "item"
        assert reading.own == ("Jazz: Turntable", "A turntable. Who is it?")
        assert reading.neighbours == ("Jazz: Club poster", "live music", "jazz", "Tea")

    def test_of_a_user_without_history_as_empty(self) -> None:
        reading = read_request(profile_request(UserFacts(()), "compact"))
        assert (reading.own, reading.neighbours) == ((), ())

    def test_and_anything_else_is_refused(self) -> None:
        with pytest.raises(ModelError, match="no request for a profile"):
            read_request([{"role": "user", "content": "How are you?"}])

    def test_from_tokens_together_with_its_answer(self, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        split = Splitter(tokenizer)
        for facts, style in ((USER, "compact"), (ITEM, "compact"), (USER, "full"), (ITEM, "full")):
            messages = profile_request(facts, style)  # type: ignore[arg-type]
            whole = prompt_and_answer(tokenizer, messages, OWN)[1]
            reading, answer = split(tokenizer(whole, add_special_tokens=False)["input_ids"])
            assert reading == read_request(messages)
            assert answer == OWN


class TestARewardModelWithContext:
    def test_a_users_history_joins_their_own_pieces_and_an_items_audience_those_around(self) -> None:
        user = with_known_facts(Reading("user", ("rope",), ("axe",)), ["rope", "tent </s>", ""])
        item = with_known_facts(Reading("item", ("kettle",), ("cup",)), ["rope"])
        assert user == Reading("user", ("rope", "tent"), ("axe",))
        assert item == Reading("item", ("kettle",), ("rope", "cup"))

    def test_it_scores_by_the_added_lines_and_others_by_their_request(
        self, trained: tuple[Settings, list[Pair], EncoderReward]
    ) -> None:
        _, pairs, reward = trained
        shown, other = pairs[0], next(pair for pair in pairs if pair.messages != pairs[0].messages)
        requests, profiles = [shown.messages, other.messages], [shown.chosen, other.chosen]
        before = reward.score(requests, profiles)
        lines = ["a thing that nobody else has", "another such thing"]
        after = reward.score(requests, profiles, [lines, []])
        expected = reward.score_readings([with_known_facts(read_request(shown.messages), lines)], [shown.chosen])
        assert after[0] != before[0] and after[0] == pytest.approx(expected[0], abs=1e-5)
        assert after[1] == pytest.approx(before[1], abs=1e-5)

    def test_a_profile_of_several_users_is_judged_by_all_of_them(
        self, trained: tuple[Settings, list[Pair], EncoderReward]
    ) -> None:
        _, pairs, reward = trained
        pair, both = pairs[0], (("a thing that nobody else has",), ("another such thing",))
        asked = distinct_requests([pair.messages, pair.messages, pair.messages], [*both, both[0]])
        assert [(one.messages, one.known) for one in asked] == [(pair.messages, both)]
        each = reward.score([pair.messages] * 2, [pair.chosen] * 2, both)
        assert each[0] != each[1]
        assert score_shared(reward, asked, [pair.chosen])[0] == pytest.approx(each.mean(), abs=1e-5)


class TestAnAnswerIsRead:
    def test_leniently_when_it_was_cut_off(self) -> None:
        phrases = read_phrases("User identity: night owl, vinyl; User inter")
        assert phrases.identity == ("night owl", "vinyl", "User inter")
        assert phrases.interests == ()


class TestTheEncoderReward:
    def test_prefers_the_own_profile_to_every_kind_of_negative_on_held_out_entities(
        self, trained: tuple[Settings, list[Pair], EncoderReward]
    ) -> None:
        _, pairs, reward = trained
        rows = accuracy_rows(reward, [pair for pair in pairs if pair.fold == "held_out"])
        accuracy = {row["kind"]: row["value"] for row in rows}
        assert set(accuracy) == {"all", "neighbour", "mixed", "truncated", "duplicated", "empty"}
        assert accuracy["all"] >= 0.9
        assert accuracy["neighbour"] >= 0.8

    def test_scores_as_before_once_saved_and_loaded(
        self, trained: tuple[Settings, list[Pair], EncoderReward], tmp_path: Path
    ) -> None:
        settings, pairs, reward = trained
        reward.save(tmp_path)
        requests, texts = [pair.messages for pair in pairs[:8]], [pair.chosen for pair in pairs[:8]]
        again = load_encoder_reward(settings, tmp_path)
        np.testing.assert_allclose(again.score(requests, texts), reward.score(requests, texts), atol=1e-5)

    def test_refuses_to_read_by_another_encoder(
        self, trained: tuple[Settings, list[Pair], EncoderReward], tmp_path: Path, workspace_settings: Make
    ) -> None:
        trained[2].save(tmp_path)
        with pytest.raises(ModelError, match="run `reclm reward`"):
            load_encoder_reward(workspace_settings(embedding={"max_tokens": 16}), tmp_path)

    def test_gives_trl_at_every_token_what_it_scores(
        self, trained: tuple[Settings, list[Pair], EncoderReward], tmp_path: Path
    ) -> None:
        from reclm.llm.models import compat

        compat.prepare()
        import torch
        from trl.experimental.utils import get_reward

        _, pairs, reward = trained
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        chosen = pairs[:4]
        prompts = [render(tokenizer, pair.messages, generation=True) for pair in chosen]
        queries = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")["input_ids"]
        answers = tokenizer(
            [pair.chosen + str(tokenizer.eos_token) for pair in chosen],
            padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt",
        )["input_ids"]  # fmt: skip
        both = torch.cat([queries, answers], dim=1)
        asked = distinct_requests([pair.messages for pair in chosen], [pair.known for pair in chosen])
        found = get_reward(reward.as_module(tokenizer, asked), both, tokenizer.pad_token_id, queries.shape[1])[1]
        by_prompt = {str(one.messages): one for one in asked}
        expected = score_shared(
            reward, [by_prompt[str(pair.messages)] for pair in chosen], [pair.chosen for pair in chosen]
        )
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)

    def test_scores_whatever_a_model_may_write(self, trained: tuple[Settings, list[Pair], EncoderReward]) -> None:
        texts = ["", " ", ";;;,,,:::", "User interests:", "x" * 5000, "a, " * 500, "\x00 <|end|> {}", OWN * 3]
        scores = trained[2].score([profile_request(USER, "compact")] * len(texts), texts)
        good = trained[2].score([profile_request(USER, "compact")], [OWN])[0]
        assert np.isfinite(scores).all()
        assert (scores < good).all()

    def test_with_too_few_pairs_says_so(self, workspace_settings: Make) -> None:
        with pytest.raises(ModelError, match="too few"):
            train_encoder_reward(workspace_settings(), [])


class TestTheTextCache:
    def test_embeds_a_text_once_and_drops_the_oldest_beyond_its_size(
        self, workspace_settings: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = load_encoder(workspace_settings())
        embedded: list[str] = []
        cache = TextCache(lambda texts: (embedded.extend(texts), encoder(texts))[1], 8)
        cache(["one", "two"])
        cache(["two", "one", "one"])
        assert sorted(embedded) == ["one", "two"]
        assert CACHED_TEXTS > 1
        monkeypatch.setattr("reclm.llm.reward.encoder.CACHED_TEXTS", 1)
        cache(["two", "three"])
        cache(["three"])
        assert sorted(embedded) == ["one", "three", "two"]
        cache.fill(["four", "five"])
        cache(["four"])
        assert embedded[3:] == ["four"]


class TestTheStage:
    def test_leaves_weights_curve_and_accuracy_with_lineage_and_is_reused(
        self, workspace_settings: Make, tmp_path: Path
    ) -> None:
        settings = workspace_settings(reward={"pairs": 60})
        sft = llm_world.as_artifact(settings, "sft", llm_world.tiny_base(tmp_path))
        made = write_reward(settings, llm_world.dialogues(), llm_world.teacher(), sft, {"teacher": "t"})
        assert {path.name for path in made.path.iterdir()} == {
            "config.json", "curve.parquet", "head.safetensors", "held_out.parquet", "manifest.json",
        }  # fmt: skip
        assert made.manifest["parents"] == {"sft": sft.version, "teacher": "t"}
        rows = pq.read_table(made.path / "held_out.parquet").to_pylist()
        assert {row["metric"] for row in rows} == {"accuracy"}
        assert {row["kind"] for row in rows} >= {"all", "neighbour"}
        again = write_reward(settings, llm_world.dialogues(), llm_world.teacher(), sft, {"teacher": "t"})
        assert again.manifest["created_at"] == made.manifest["created_at"]

    def test_with_a_causal_model_merges_it_and_scores(self, workspace_settings: Make, tmp_path: Path) -> None:
        settings = workspace_settings(reward={"model": "causal", "pairs": 60, "max_steps": 12})
        sft = llm_world.as_artifact(settings, "sft", llm_world.tiny_base(tmp_path))
        made = write_reward(settings, llm_world.dialogues(), llm_world.teacher(), sft)
        assert (made.path / "adapter").is_dir()
        assert made.metrics["too_long"] == 0
        reward = load_reward(settings, made)
        scores = reward.score([profile_request(USER, "compact")] * 2, [OWN, ""])
        assert np.isfinite(scores).all()
        assert scores[0] != scores[1]
        assert "all" in made.metrics["accuracy"]
