"""The refinement: PPO and RLOO on a minute model, what they leave behind, and a planted reward that is hacked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from reclm.errors import ModelError, WorkspaceError
from reclm.llm.engines.decoding import NoPhraseTwice, _marks
from reclm.llm.models.loading import load_tokenizer
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import Message, UserFacts
from reclm.llm.reward.encoder import reward_module
from reclm.llm.reward.model import Asked
from reclm.llm.reward.stage import write_reward
from reclm.llm.tuning import monitor, rollouts
from reclm.llm.tuning.monitor import ranking
from reclm.llm.tuning.refine import training_requests, write_refine
from reclm.llm.tuning.rollouts import draw_as_served
from reclm.settings.tree import Settings
from reclm.storage.artifacts import Artifact
from tests import llm_world
from tests.model_families import CLOSES, FAMILIES, checkpoint

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Make = Callable[..., Settings]
SHORT = {
    "llm": {"max_profile_tokens": 12},
    "tune": {"held_out_sample": 4},
    "runtime": {"threads": 1},
}
UNGUARDED = {
    "max_kl": 1e6, "max_format_drop": 9.0, "max_distinct_drop": 9.0, "max_own_drop": 9.0, "max_ranking_drop": 9.0,
}  # fmt: skip


class PrefersShortAnswers:
    """A reward that ignores the entity: the shorter the better, so that one answer is best for all."""

    def score(
        self, requests: Sequence[list[Message]], profiles: Sequence[str], known: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float32]:
        return np.array([-len(text) / 20 for text in profiles], dtype=np.float32)

    def as_module(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Asked]) -> nn.Module:
        return reward_module(lambda readings, texts: self.score([], texts), tokenizer)


def untrained(tmp_path: Path) -> Path:
    """A folder with a model of large random weights, whose answers differ from request to request."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "untrained"
    tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=512, initializer_range=0.15, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refined(settings: Settings, model: Path) -> Artifact:
    sft = llm_world.as_artifact(settings, "sft", model)
    reward = llm_world.as_artifact(settings, "reward", model)
    return write_refine(settings, llm_world.dialogues(), llm_world.teacher(), sft, reward, judge=PrefersShortAnswers())


def curve(artifact: Artifact, metric: str) -> dict[int, float]:
    rows = pq.read_table(artifact.path / "curve.parquet").to_pylist()
    return {row["step"]: row["value"] for row in rows if row["metric"] == metric}


def weights(artifact: Artifact) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(artifact.path / "model" / "model.safetensors")


class TestAHackedReward:
    def test_is_stopped_by_the_guard_of_distinct_profiles_and_an_earlier_state_is_kept(
        self, workspace_settings: Make, tmp_path: Path
    ) -> None:
        hasty = {
            "steps": 60, "validate_every": 2, "batch_size": 32, "held_out_sample": 16, "learning_rate": 1e-2, "kl": 0.0,
            "temperature": 1.0, **UNGUARDED, "max_distinct_drop": 0.4,
        }  # fmt: skip
        made = refined(workspace_settings(**SHORT, refine=hasty), untrained(tmp_path))
        metrics = made.metrics
        distinct, reward = curve(made, "held_out/distinct"), curve(made, "reward")
        last = metrics["last_step"]
        assert metrics["stopped"] == "distinct"
        assert last < 60
        rewards = [reward[step] for step in sorted(reward)]
        half = len(rewards) // 2
        assert np.mean(rewards[half:]) > np.mean(rewards[:half])
        assert distinct[last] < distinct[0] - 0.4
        assert metrics["kept_step"] < last
        assert distinct[metrics["kept_step"]] >= distinct[0] - 0.4


class TestADivergingRefinement:
    @pytest.mark.parametrize("method", ["ppo", "rloo"])
    def test_names_the_step_size_to_lower(self, method: str, workspace_settings: Make, tmp_path: Path) -> None:
        settings = workspace_settings(
            **SHORT, refine={**SOME, "steps": 4, "validate_every": 4, "learning_rate": 1e30, "method": method}
        )
        with pytest.raises(ModelError, match=r"lower refine\.learning_rate \(now 1e\+30\)"):
            refined(settings, untrained(tmp_path))
        assert not list((settings.paths.artifacts / "refine").glob("*"))


class TestABatchOfMoreAnswersThanRequestsAllow:
    @pytest.mark.parametrize("method", ["ppo", "rloo"])
    def test_is_as_large_as_they_allow(self, method: str, workspace_settings: Make, tmp_path: Path) -> None:
        settings = workspace_settings(**SHORT, refine={**SOME, "batch_size": 512, "method": method})
        made = refined(settings, untrained(tmp_path))
        assert made.metrics["last_step"] == SOME["steps"]
        assert set(curve(made, "reward")) == {1, 2}


SOME = {"steps": 2, "validate_every": 1, "batch_size": 4, "held_out_sample": 8, "learning_rate": 1e-2, **UNGUARDED}


@pytest.mark.parametrize("method", ["ppo", "rloo"])
class TestARefinement:
    def test_leaves_adapter_model_and_curves_and_reports_the_kept_step(
        self,
        method: str,
        workspace_settings: Make,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        drawn = []

        def structured(tokenizer: PreTrainedTokenizerBase, width: int, rows: int) -> NoPhraseTwice:
            drawn.append(rows)
            return NoPhraseTwice(tokenizer, width, rows)

        monkeypatch.setattr(rollouts, "NoPhraseTwice", structured)
        made = refined(workspace_settings(**SHORT, refine={**SOME, "method": method}), untrained(tmp_path))
        assert {path.name for path in made.path.iterdir()} == {
            "adapter", "curve.parquet", "held_out.parquet", "manifest.json", "model",
        }  # fmt: skip
        assert (made.path / "model" / "tokenizer.json").exists()
        printed = capfd.readouterr()
        assert printed.out == "" and "training policy" not in printed.err
        assert set(curve(made, "reward")) == {1, 2}
        assert set(curve(made, "held_out/reward")) == {0, 1, 2}
        assert curve(made, "held_out/kl")[0] == pytest.approx(0.0, abs=1e-6)
        assert drawn
        rows = pq.read_table(made.path / "held_out.parquet").to_pylist()
        assert {"reward_before", "reward"} <= {row["metric"] for row in rows}
        rewards = curve(made, "held_out/reward")
        assert (made.metrics["before"]["reward"], made.metrics["after"]["reward"]) == (
            rewards[0],
            max(rewards.values()),
        )
        assert rewards[made.metrics["kept_step"]] == max(rewards.values())

    def test_gives_the_same_model_twice(self, method: str, workspace_settings: Make, tmp_path: Path) -> None:
        settings = workspace_settings(**SHORT, refine={**SOME, "method": method})
        model = untrained(tmp_path)
        first = refined(settings, model)
        before, rewards = weights(first), curve(first, "held_out/reward")
        shutil.rmtree(first.path)
        again = refined(settings, model)
        assert curve(again, "held_out/reward") == rewards
        for name, tensor in weights(again).items():
            np.testing.assert_array_equal(tensor, before[name])


class TestEveryFamily:
    @pytest.mark.parametrize("method", ["ppo", "rloo"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_gets_its_own_reward_model_and_is_refined_by_configuration_alone(
        self, family: str, method: str, workspace_settings: Make, tmp_path: Path
    ) -> None:
        folder = checkpoint(family, tmp_path / family, llm_world.documents())
        settings = workspace_settings(
            llm={"base_model": str(folder), "max_prompt_tokens": 512, "max_profile_tokens": 12},
            reward={"model": "causal", "pairs": 40, "max_steps": 2},
            refine={**SOME, "method": method, "steps": 1},
            tune={"held_out_sample": 4},
            runtime={"threads": 1},
        )
        sft = llm_world.as_artifact(settings, "sft", folder)
        reward = write_reward(settings, llm_world.dialogues(), llm_world.teacher(), sft)
        made = write_refine(settings, llm_world.dialogues(), llm_world.teacher(), sft, reward)
        assert set(curve(made, "reward")) == {1}
        assert set(curve(made, "held_out/reward")) == {0, 1}
        assert all(np.isfinite(value) for value in curve(made, "held_out/reward").values())
        assert load_tokenizer(made.path / "model").eos_token == CLOSES[family]


class TestWithoutAMethod:
    def test_the_model_is_the_tuned_one(self, workspace_settings: Make, tmp_path: Path) -> None:
        model = untrained(tmp_path)
        made = refined(workspace_settings(**SHORT, refine={"method": "none"}), model)
        assert (made.path / "model" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
        assert made.metrics["kept_step"] == 0


class TestTheRequestsTrainedOn:
    def test_are_those_of_the_train_fold_each_once(self, workspace_settings: Make, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        train = [dialogue for dialogue in llm_world.dialogues() if dialogue.fold == "train"]
        requests = training_requests(workspace_settings(), [*train, *llm_world.dialogues()], tokenizer)
        assert len(requests) == len({str(asked.messages) for asked in requests}) <= len(train)
        assert {asked.known for asked in requests} >= {(dialogue.known,) for dialogue in train[:1]}

    def test_have_to_exist(self, workspace_settings: Make, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        with pytest.raises(WorkspaceError, match="reclm build"):
            training_requests(workspace_settings(), [], tokenizer)


def asking(line: str, answer: bool) -> Dialogue:
    facts = UserFacts(("x",))
    return Dialogue("d", "user", "u", 0, "held_out", facts, facts, facts, (line,), answer, "i", (), 0.0, 0.0)


class TestTheHeldOutMonitor:
    def test_measures_answers_as_they_are_served(
        self, workspace_settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = ["User identity: reader; User interests: books", "User identity: reader, User interests: books"]
        measured: list[str] = []

        def answers(*arguments: Any, structured: bool) -> list[str]:
            assert structured
            return [texts[number % 2] for number in range(len(arguments[-1]))]

        def divergence(*arguments: Any) -> NDArray[np.float64]:
            measured.extend(arguments[3])
            return np.zeros(len(arguments[2]))

        monkeypatch.setattr(monitor, "write_answers", answers)
        monkeypatch.setattr(monitor, "divergence", divergence)
        settings = workspace_settings(**SHORT, refine={"held_out_sample": 8})
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        held_out = monitor.HeldOutMonitor(
            settings, llm_world.dialogues(), llm_world.teacher(), PrefersShortAnswers(), tokenizer, embed=spread
        )
        metrics = held_out.measure(MagicMock(training=False), 0)
        assert metrics.format == 0.5
        assert metrics.distinct == pytest.approx(4 / held_out.size)
        assert metrics.reward == pytest.approx(np.mean([-len(text) / 20 for text in texts]))
        assert measured == texts * (held_out.size // 2)


class TestAnswersSampledForATrainer:
    """`draw_as_served`, called as TRL's PPOTrainer calls it: a model that prefers one phrase writes 40 tokens."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(untrained(tmp_path)).eval()

    def draw(self, model: Any, tokenizer: Any, **config: Any) -> Any:
        import torch
        from transformers import GenerationConfig

        torch.manual_seed(5)
        ids = torch.tensor([tokenizer("Who is it?", add_special_tokens=False)["input_ids"]] * 16)
        wanted = GenerationConfig(max_new_tokens=40, do_sample=True, top_k=0, top_p=1.0, temperature=0.7, **config)
        options = {"generation_config": wanted, "return_dict_in_generate": True, "output_scores": True}
        return ids, model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)

    def test_begin_no_phrase_of_a_part_twice(self, model: Any, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        marks = _marks(tokenizer)
        comma, word = (next(token for token, text in marks.items() if text == ",")), 300
        bias = {(comma,): 30.0, (word,): 29.0}

        def begun(answer: list[int]) -> list[int]:
            starts = [after for before, after in zip([comma, *answer], answer, strict=False) if before == comma]
            return [token for token in starts if token not in marks and token != tokenizer.eos_token_id]

        ids, before = self.draw(model, tokenizer, sequence_bias=bias)
        assert any(begun(row).count(word) > 1 for row in before.sequences[:, ids.shape[1] :].tolist())
        draw_as_served(model, tokenizer)
        _, after = self.draw(model, tokenizer, sequence_bias=bias)
        found = [begun(row) for row in after.sequences[:, ids.shape[1] :].tolist()]
        assert all(len(set(tokens)) == len(tokens) for tokens in found)
        assert any(word in tokens for tokens in found)

    def test_come_with_the_log_probabilities_of_the_policy_itself(self, model: Any, tmp_path: Path) -> None:
        import torch

        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        draw_as_served(model, tokenizer)
        ids, drawn = self.draw(model, tokenizer)
        width = ids.shape[1]
        with torch.no_grad():
            whole = model(input_ids=drawn.sequences).logits[:, width - 1 : -1] / 0.7
        found = torch.stack(drawn.scores, 1)
        assert torch.isfinite(found).all()
        written = drawn.sequences[:, width:] != tokenizer.pad_token_id
        torch.testing.assert_close(found[written], whole[written], rtol=1e-3, atol=1e-3)

    def test_end_with_the_end_token(self, model: Any, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
        end = {(tokenizer.eos_token_id,): 7.0}
        ids, before = self.draw(model, tokenizer, sequence_bias=end)
        assert before.sequences.shape[1] == ids.shape[1] + 40
        draw_as_served(model, tokenizer)
        _, drawn = self.draw(model, tokenizer, sequence_bias=end)
        answers = drawn.sequences[:, ids.shape[1] :].tolist()
        lengths = [answer.index(tokenizer.eos_token_id) + 1 for answer in answers]
        assert 1 < max(lengths) < 40
        assert len(set(lengths)) > 1
        for answer, length in zip(answers, lengths, strict=True):
            assert len(answer) == max(lengths)
            assert set(answer[length:]) <= {tokenizer.pad_token_id}

    def test_leave_other_callers_alone(self, model: Any, tmp_path: Path) -> None:
        import torch

        tokenizer = load_tokenizer(llm_world.tiny_base(tmp_path))
        ids = torch.tensor([tokenizer("Who is it?", add_special_tokens=False)["input_ids"]])
        options = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8}
        before = model.generate(**options)
        draw_as_served(model, tokenizer)
        assert torch.equal(model.generate(**options), before)


def spread(texts: Sequence[str]) -> NDArray[np.float32]:
    rows = np.array([np.random.default_rng(list(text.encode()) or [0]).standard_normal(8) for text in texts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


VECTORS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}


class TestTheRankingProxy:
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([VECTORS[text] for text in texts], dtype=np.float32)

    def test_is_one_when_the_withheld_item_is_nearest(self) -> None:
        dialogues = [asking("a", True), asking("b", False), asking("c", False)]
        found = ranking(dialogues, self.embed(["a", "a", "a"]), self.embed)
        assert found.tolist() == [1.0]

    def test_falls_with_every_other_item_that_lies_nearer(self) -> None:
        dialogues = [asking("b", True), asking("a", False), asking("c", False)]
        assert ranking(dialogues, self.embed(["a", "a", "a"]), self.embed).tolist() == [0.5]

    def test_is_empty_where_no_answer_is_yes(self) -> None:
        assert len(ranking([asking("a", False), asking("b", False)], self.embed(["a", "b"]), self.embed)) == 0
