"""The base model: trained from scratch or taken from elsewhere by configuration, and its templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_world import dialogues, documents, tiny_base
from model_families import CLOSES, FAMILIES, checkpoint
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.llm.models import base
from reclm.llm.models.loading import load_model, load_tokenizer, model_location
from reclm.llm.models.tiny import (
    SIZES,
    Size,
    _loss,
    _untrained,
    as_document,
    initialise_from_encoder,
    token_budget,
    train_model,
    train_tokenizer,
)
from reclm.llm.prompts.corpus import Corpus
from reclm.llm.prompts.messages import Message, profile_request
from reclm.llm.prompts.shape import shape_of, style_of
from reclm.llm.prompts.templates import decode, encode, prompt_and_answer, render, takes_system, token_counter
from reclm.settings.tree import Settings

QUICK = {"tiny_tokens": 1000, "tiny_vocabulary": 400}


def settings_of(folder: Path, **llm: object) -> Settings:
    return Settings(workspace=folder / "workspace", llm=llm, runtime={"threads": 1, "device": "cpu"})


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, checkpoint(request.param, tmp_path_factory.mktemp(request.param), documents())


class TestTinyTokenizer:
    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls):  # type: ignore[no-untyped-def]
        return train_tokenizer(documents(), 600)

    def test_is_the_same_each_time(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        assert train_tokenizer(documents(), 600).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()

    def test_gives_any_text_back(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        text = "Ünïcode, 数 and \u200d\U0001f600\ttabs\n"
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text

    def test_the_end_token_of_an_answer_is_not_decoded(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        words, mark = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("some words", "!"))
        answers = [words + mark, words + mark, [*words, tokenizer.eos_token_id]]
        assert decode(tokenizer, answers, [True, False, True]) == ["some words", "some words!", "some words"]

    def test_pads_with_another_token_than_it_ends_with(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        assert tokenizer.pad_token_id != tokenizer.eos_token_id

    def test_template_renders_what_the_corpus_holds(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        messages: list[Message] = [
            {"role": "user", "content": "Picked: a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "Next: c?"},
            {"role": "assistant", "content": "Yes"},
        ]
        assert render(tokenizer, messages, generation=False) == as_document(messages)

    def test_a_turn_costs_one_token_and_an_answer_one_more(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        words = len(tokenizer("Picked", add_special_tokens=False)["input_ids"])
        assert len(encode(tokenizer, [{"role": "user", "content": "Picked"}])) == words + 2

    def test_template_tokens_take_no_part_in_merges(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        assert not [token for token in tokenizer.get_vocab() if "|>" in token and not token.startswith("<|")]


class TestTinyModel:
    @pytest.mark.parametrize(("name", "millions"), [("small", 1.4), ("medium", 5.6), ("large", 13.0)])
    def test_has_the_size_its_name_promises(self, name: str, millions: float) -> None:
        with torch.device("meta"):
            model = _untrained(_Counted(), SIZES[name])  # type: ignore[arg-type]
        assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.1)

    def test_learns_and_does_so_the_same_each_time(self) -> None:
        tokenizer, size = train_tokenizer(documents(), 400), Size(hidden=32, layers=1, heads=1, intermediate=64)
        runs = [
            train_model(tokenizer, documents(), size, tokens=16_000, learning_rate=5e-3, seed=3, batch_tokens=512)
            for _ in range(2)
        ]
        assert runs[0][1] == runs[1][1]
        assert runs[0][1][-1][1] < runs[0][1][0][1] - 1

    def test_without_documents_is_refused(self) -> None:
        size = Size(hidden=32, layers=1, heads=1, intermediate=64)
        with pytest.raises(ModelError, match="there are none"):
            train_model(train_tokenizer(["a"], 300), [], size, tokens=1, learning_rate=1e-3, seed=1)

    def test_a_training_that_diverges_says_so(self) -> None:
        size = Size(hidden=16, layers=1, heads=1, intermediate=32)
        tokenizer = train_tokenizer(documents(), 400)
        with pytest.raises(ModelError, match=r"loss of the tiny model is nan at step .* lower llm\.tiny_learning_rate"):
            train_model(tokenizer, documents(), size, tokens=8000, learning_rate=1e30, seed=3, batch_tokens=512)

    def test_reads_more_tokens_of_more_dialogues_within_limits(self) -> None:
        assert [token_budget(dialogues) for dialogues in (0, 1000, 10_000, 10**6)] == [
            1_200_000,
            1_200_000,
            2_800_000,
            4_000_000,
        ]

    def test_words_of_similar_meaning_start_alike_and_bytes_are_unchanged(self) -> None:
        tokenizer = train_tokenizer(["a mug and rope and tent"] * 50, 320)
        model = _untrained(tokenizer, Size(32, 1, 1, 64))
        kinds = {"mug": 0, "rope": 1, "tent": 1}

        def meanings(words: Sequence[str]) -> NDArray[np.float32]:
            return np.eye(3, dtype=np.float32)[[kinds.get(word, 2) for word in words]]

        before = model.get_input_embeddings().weight.detach().clone()
        initialise_from_encoder(model, tokenizer, meanings)
        table = model.get_input_embeddings().weight.detach()
        vocabulary = tokenizer.get_vocab()
        mug, rope, tent = (table[vocabulary[f"\u0120{word}"]][:3] for word in kinds)
        assert torch.allclose(rope, tent)
        assert torch.cosine_similarity(mug, rope, dim=0) < 0.5
        assert torch.equal(table[vocabulary["a"]], before[vocabulary["a"]])
        assert not torch.equal(table[vocabulary["\u0120rope"]], before[vocabulary["\u0120rope"]])


class _Counted:
    """As much of a tokenizer as a size needs."""

    eos_token_id, pad_token_id = 1, 0

    def __len__(self) -> int:
        return 2048


class TestLoss:
    def test_is_the_weighted_mean_over_the_tokens_that_follow(self) -> None:
        torch.manual_seed(0)
        logits, ids, weights = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5)), torch.rand(3, 5)
        log_probabilities = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(-1)
        expected = -(log_probabilities * weights[:, 1:]).sum() / weights[:, 1:].sum()
        torch.testing.assert_close(_loss(logits, ids, weights), expected)


class TestWriteBase:
    def test_is_trained_once_and_reused(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        settings = settings_of(tmp_path, **QUICK)
        first = base.write_base(settings, lambda: Corpus([], documents()))
        again = base.write_base(settings, lambda: Corpus([], list(documents())))
        assert (first.version, first.manifest["created_at"]) == (again.version, again.manifest["created_at"])
        location = model_location(settings, first)
        assert load_model(location, settings)(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 400)
        assert capfd.readouterr().out == ""

    def test_a_wider_model_takes_smaller_steps(self, tmp_path: Path) -> None:
        found = documents()
        rates = {
            size: base.write_base(
                settings_of(tmp_path, **{**QUICK, "tiny_size": size, "tiny_tokens": 300}), lambda: Corpus([], found)
            ).manifest["parameters"]["learning_rate"]
            for size in SIZES
        }
        assert rates["small"] == settings_of(tmp_path, **QUICK).llm.tiny_learning_rate
        assert [rates[size] * SIZES[size].hidden for size in SIZES] == pytest.approx([rates["small"] * 192] * 3)

    def test_another_corpus_is_another_version(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, **QUICK)
        found = documents()
        corpora = [Corpus([], found), Corpus([], found[:-1]), Corpus(found[-1:], found[:-1])]
        assert len({base.write_base(settings, lambda corpus=corpus: corpus).version for corpus in corpora}) == 3

    def test_a_folder_is_pinned_by_its_content(self, tmp_path: Path) -> None:
        folder = checkpoint("llama", tmp_path / "llama", documents())
        settings = settings_of(tmp_path, base_model=str(folder))
        first = base.write_base(settings, lambda: Corpus([], []))
        assert model_location(settings, first) == str(folder)
        assert str(tmp_path) not in json.dumps(first.manifest)
        assert sorted(path.name for path in first.path.iterdir()) == ["manifest.json"]
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
        assert base.write_base(settings, lambda: Corpus([], [])).version != first.version

    def test_a_hub_id_is_pinned_by_its_commit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = checkpoint("llama", tmp_path / "snapshots" / "c0ffee", documents())
        requested = []

        def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            requested.append((name, revision))
            return str(commit)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        settings = settings_of(tmp_path, base_model="maker/model")
        artifact = base.write_base(settings, lambda: Corpus([], []))
        assert artifact.manifest["parameters"]["revision"] == "c0ffee"
        assert model_location(settings, artifact) == str(commit)
        assert requested == [("maker/model", None), ("maker/model", "c0ffee")]

    def test_weights_in_another_format_are_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "pickled"
        folder.mkdir()
        (folder / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(ModelError, match="safetensors"):
            base.write_base(settings_of(tmp_path, base_model=str(folder)), lambda: Corpus([], []))


class TestStyle:
    def test_follows_the_model_unless_it_is_set(self, tmp_path: Path) -> None:
        cases = [({}, "compact"), ({"base_model": "maker/model"}, "full"), ({"style": "full"}, "full")]
        assert [style_of(settings_of(tmp_path, **llm)) for llm, _ in cases] == [style for _, style in cases]
        cases = [({}, "full"), ({"style": "compact"}, "compact")]
        for llm, style in cases:
            assert shape_of(settings_of(tmp_path, **llm), endpoint=True).style == style


class TestFamilies:
    def test_every_request_renders_and_counts(self, family: tuple[str, Path]) -> None:
        name, folder = family
        tokenizer = load_tokenizer(folder)
        messages = profile_request(dialogues()[0].facts, "full")
        text = render(tokenizer, messages, generation=True)
        assert all(message["content"] in text for message in messages)
        assert takes_system(tokenizer) is (name != "gemma")
        assert token_counter(tokenizer)(messages) == len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def test_tokenizers_pad_left_with_a_token_of_their_own_and_end_as_the_template_does(
        self, family: tuple[str, Path]
    ) -> None:
        name, folder = family
        tokenizer = load_tokenizer(folder)
        assert tokenizer.padding_side == "left"
        assert tokenizer.eos_token == CLOSES[name]
        assert tokenizer.pad_token_id not in {None, tokenizer.eos_token_id}

    def test_an_answer_follows_its_prompt(self, family: tuple[str, Path]) -> None:
        tokenizer = load_tokenizer(family[1])
        messages: list[Message] = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
        prompt, whole = prompt_and_answer(tokenizer, messages, "Yes")
        assert prompt == render(tokenizer, messages, generation=True)
        assert whole == f"{prompt}Yes{CLOSES[family[0]]}"

    def test_models_load_for_both_tasks_with_room_for_the_padding_token(
        self, family: tuple[str, Path], tmp_path: Path
    ) -> None:
        settings, tokenizer = settings_of(tmp_path), load_tokenizer(family[1])
        ids = torch.tensor([[tokenizer.pad_token_id, 5, 6]])
        causal, score = load_model(family[1], settings), load_model(family[1], settings, task="score")
        assert causal(input_ids=ids).logits.shape[:2] == (1, 3)
        assert score(input_ids=ids).logits.shape == (1, 1)
        assert causal.generation_config.eos_token_id == tokenizer.eos_token_id
        assert score.config.pad_token_id == tokenizer.pad_token_id

    def test_a_new_head_is_the_same_each_time(self, family: tuple[str, Path], tmp_path: Path) -> None:
        models = [load_model(family[1], settings_of(tmp_path), task="score") for _ in range(2)]
        assert torch.equal(models[0].score.weight, models[1].score.weight)  # type: ignore[arg-type,union-attr]


class TestWithoutTemplate:
    def test_gets_the_plain_template(self, tmp_path: Path) -> None:
        folder = checkpoint("llama", tmp_path / "llama", documents())
        (folder / "chat_template.jinja").unlink()
        tokenizer = load_tokenizer(folder)
        prompt, whole = prompt_and_answer(tokenizer, [{"role": "user", "content": "Who?"}], "Jazz")
        assert (prompt, whole) == ("User: Who?\nAssistant: ", "User: Who?\nAssistant: Jazz<|end_of_text|>")

    def test_begins_with_the_start_token_that_its_tokenizer_adds(self, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, processors

        folder = checkpoint("llama", tmp_path / "llama", documents())
        (folder / "chat_template.jinja").unlink()
        asked: list[Message] = [{"role": "user", "content": "hello"}]
        assert render(load_tokenizer(folder), asked, generation=True) == "User: hello\nAssistant: "
        rules = Tokenizer.from_file(str(folder / "tokenizer.json"))
        start = "<|begin_of_text|>"
        rules.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, rules.token_to_id(start))]
        )
        rules.save(str(folder / "tokenizer.json"))
        tokenizer = load_tokenizer(folder)
        assert render(tokenizer, asked, generation=True) == f"{start}User: hello\nAssistant: "
        assert encode(tokenizer, asked).count(rules.token_to_id(start)) == 1


class TestRefusals:
    @pytest.mark.parametrize("load_in", ["8bit", "4bit"])
    def test_fewer_bits_without_cuda_name_the_remedy(self, tmp_path: Path, load_in: str) -> None:
        with pytest.raises(ModelError, match="needs a CUDA device and the package bitsandbytes"):
            load_model(tiny_base(tmp_path), settings_of(tmp_path, load_in=load_in))

    def test_a_folder_without_a_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="nowhere"):
            load_tokenizer(tmp_path / "nowhere")

    def test_a_model_that_brings_code_is_not_run(self, tmp_path: Path) -> None:
        folder = checkpoint("llama", tmp_path / "llama", documents())
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "theirs", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "code.M")}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(ModelError):
            load_model(folder, settings_of(tmp_path))
        assert not (tmp_path / "ran").exists()
