"""Generation: each prompt is answered once, also after a kill, and independently of its batch."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from llm_world import dialogues, tiny_base
from stub_engine import GOOD, Killed, Stub

from reclm.errors import ModelError
from reclm.llm.engines import answers, transformers
from reclm.llm.engines.answers import earlier_answers, generate
from reclm.llm.engines.base import Answer
from reclm.llm.engines.decoding import NoPhraseTwice
from reclm.llm.engines.opening import open_engine
from reclm.llm.engines.transformers import TransformersEngine
from reclm.llm.models.loading import load_tokenizer
from reclm.llm.prompts.messages import Message, profile_request
from reclm.llm.prompts.requests import Request, prompt_hash
from reclm.profiles import grammar
from reclm.settings.tree import Settings
from reclm.storage.schemas import GENERATIONS


def requests(*contents: str) -> list[Request]:
    return [Request("user", [{"role": "user", "content": content}]) for content in contents]


def settings(**profiles: object) -> Settings:
    return Settings(profiles={"shard_size": 3, "retries": 2, **profiles})  # type: ignore[arg-type]


NAMES = [f"taste {number}" for number in range(10)]


class TestPromptHash:
    def test_it_depends_on_the_text_and_not_on_the_order_of_keys(self) -> None:
        first: list[Message] = [{"role": "user", "content": "é"}]
        second: list[Message] = [{"content": "é", "role": "user"}]
        assert prompt_hash(first) == prompt_hash(second)
        assert prompt_hash(first) != prompt_hash([{"role": "user", "content": "e"}])
        assert len(prompt_hash(first)) == 64


class TestOnce:
    def test_identical_prompts_are_answered_once(self, tmp_path: Path) -> None:
        engine = Stub()
        rows = generate(settings(), engine, requests(*NAMES, *NAMES), tmp_path)
        assert sorted(engine.requested) == sorted(NAMES)
        assert [row.text for row in rows.values()] == [GOOD.format(name) for name in NAMES]
        assert list(rows) == [prompt_hash(request.messages) for request in requests(*NAMES)]

    def test_known_answers_are_reused(self, tmp_path: Path) -> None:
        first = generate(settings(), Stub(), requests(*NAMES[:4]), tmp_path / "one")
        engine = Stub()
        rows = generate(settings(), engine, requests(*NAMES[:6]), tmp_path / "two", first)
        assert sorted(engine.requested) == NAMES[4:6]
        assert len(rows) == 6
        assert len(list(answers.read((tmp_path / "two").glob("*.parquet")))) == 2

    def test_earlier_answers_are_reused_for_the_same_engine_and_model_only(self, tmp_path: Path) -> None:
        generate(settings(), Stub(), requests(*NAMES), tmp_path)
        other = Stub()
        assert len(earlier_answers([tmp_path], other)) == len(NAMES)
        other.model_version = "model-2"
        assert earlier_answers([tmp_path], other) == {}


class TestShards:
    def test_every_answer_is_stored_with_its_engine_model_and_seed(self, tmp_path: Path) -> None:
        generate(settings(), Stub(), requests(*NAMES), tmp_path)
        shards = sorted(tmp_path.iterdir())
        assert [shard.name for shard in shards] == [f"generations-{n:05d}.parquet" for n in range(4)]
        table = pq.read_table(tmp_path)
        assert table.schema.equals(GENERATIONS)
        for row in table.to_pylist():
            assert (row["engine"], row["engine_version"], row["model_version"]) == ("stub", "1", "model-1")
            assert (row["tokens"], row["latency_ms"], row["attempts"], row["seed"]) == (7, 2.0, 1, Settings().seed)
            assert row["parse_status"] == grammar.OK

    @pytest.mark.parametrize("moment", range(len(NAMES)))
    def test_a_killed_run_repeats_at_most_one_shard_and_ends_alike(self, tmp_path: Path, moment: int) -> None:
        undisturbed = generate(settings(), Stub(), requests(*NAMES), tmp_path / "one")
        killed = Stub(die_after=moment)
        with pytest.raises(Killed):
            generate(settings(), killed, requests(*NAMES), tmp_path / "two")
        engine = Stub()
        assert generate(settings(), engine, requests(*NAMES), tmp_path / "two") == undisturbed
        assert sorted({*killed.requested[: moment // 3 * 3], *engine.requested}) == NAMES
        assert len(engine.requested) == len(NAMES) - moment // 3 * 3
        written = {name: (tmp_path / name).glob("*") for name in ("one", "two")}
        assert [file.read_bytes() for file in sorted(written["one"])] == [
            file.read_bytes() for file in sorted(written["two"])
        ]

    def test_shards_of_another_model_or_of_other_prompts_are_not_mistaken(self, tmp_path: Path) -> None:
        generate(settings(), Stub(), requests(*NAMES), tmp_path)
        engine = Stub()
        engine.model_version = "model-2"
        generate(settings(), engine, requests(*NAMES[:2]), tmp_path)
        assert sorted(engine.requested) == NAMES[:2]
        assert len(list(tmp_path.iterdir())) == 1


class TestMalformedAnswers:
    def test_they_are_retried_at_a_higher_temperature_with_another_seed(self, tmp_path: Path) -> None:
        engine = Stub(malformed={NAMES[0]: 1, NAMES[1]: 2})
        rows = {row.text: row for row in generate(settings(), engine, requests(*NAMES[:3]), tmp_path).values()}
        assert [rows[GOOD.format(name)].attempts for name in NAMES[:3]] == [2, 3, 1]
        assert [rows[GOOD.format(name)].tokens for name in NAMES[:3]] == [14, 21, 7]
        seed = Settings().seed
        assert engine.settings_seen == [(0.0, seed, True), (0.7, seed + 1, True), (0.7, seed + 2, True)]
        assert rows[GOOD.format(NAMES[1])].seed == seed + 2

    def test_an_answer_that_never_parses_is_kept_unchanged(self, tmp_path: Path) -> None:
        engine = Stub(malformed={NAMES[0]: 99})
        (row,) = generate(settings(), engine, requests(NAMES[0]), tmp_path).values()
        assert (row.text, row.parse_status, row.attempts) == ("no profile at all", grammar.MALFORMED, 3)

    def test_a_higher_temperature_of_the_settings_is_kept(self, tmp_path: Path) -> None:
        engine = Stub(malformed={NAMES[0]: 1})
        generate(settings(temperature=1.2), engine, requests(NAMES[0]), tmp_path)
        assert [temperature for temperature, _, _ in engine.settings_seen] == [1.2, 1.2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model"))


PROMPTS = [profile_request(dialogue.facts, "compact") for dialogue in dialogues()][::4]


def written(folder: Path, prompts: Sequence[list[Message]], batch_size: int, **how: object) -> list[Answer]:
    options = {"temperature": 0.0, "seed": 1, "max_tokens": 24, "structured": False, **how}
    with open_engine(Settings(profiles={"batch_size": batch_size}), str(folder)) as engine:  # type: ignore[arg-type]
        answers = dict(engine.answer(prompts, kinds=["user"] * len(prompts), **options))  # type: ignore[arg-type]
    assert sorted(answers) == list(range(len(prompts)))
    return [answers[row] for row in range(len(prompts))]


class TestTransformers:
    def test_greedy_answers_do_not_depend_on_batches(self, folder: Path) -> None:
        together, alone = (written(folder, PROMPTS, size) for size in (64, 1))
        assert [answer[:2] for answer in together] == [answer[:2] for answer in alone]

    def test_samples_do_not_depend_on_batches_and_do_on_seed(self, folder: Path) -> None:
        together, alone, other = (
            [answer.text for answer in written(folder, PROMPTS, size, temperature=0.9, seed=seed)]
            for size, seed in ((64, 3), (1, 3), (64, 4))
        )
        assert together == alone
        assert sum(one != another for one, another in zip(together, other, strict=True)) > len(PROMPTS) / 2

    def test_a_batch_that_fails_ends_it_and_leaves_the_threads_as_they_were(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = []

        def broken(engine: TransformersEngine, encoded: Sequence[list[int]], *how: object) -> list[list[int]]:
            begun.append(encoded)
            raise ModelError("no more memory")

        monkeypatch.setattr(TransformersEngine, "_write", broken)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            with pytest.raises(ModelError, match="no more memory"):
                written(folder, PROMPTS, 1)
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == 2
        finally:
            torch.set_num_threads(before)
        assert len(begun) <= 3 < len(PROMPTS)

    @pytest.mark.parametrize(("threads", "small", "at_once"), [(3, 50_000_000, 3), (1, 50_000_000, 1), (3, 10, 1)])
    def test_a_small_model_answers_batches_in_threads_with_the_same_result(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int, small: int, at_once: int
    ) -> None:
        expected = written(folder, PROMPTS, 64)
        under_way, seen, write = [], set(), TransformersEngine._write
        together = threading.Barrier(at_once)

        def watched(engine: TransformersEngine, encoded: Sequence[list[int]], *how: object) -> list[list[int]]:
            under_way.append(encoded)
            with suppress(threading.BrokenBarrierError):
                together.wait(5)
            seen.add((len(under_way), torch.get_num_threads()))
            try:
                return write(engine, encoded, *how)  # type: ignore[arg-type]
            finally:
                under_way.remove(encoded)

        monkeypatch.setattr(TransformersEngine, "_write", watched)
        monkeypatch.setattr(transformers, "SMALL_MODEL", small)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = written(folder, PROMPTS, -(-len(PROMPTS) // 3))
            with ThreadPoolExecutor(1) as later:  # a thread begins with what was set last
                assert later.submit(torch.get_num_threads).result() == threads
        finally:
            torch.set_num_threads(before)
        assert [answer[:2] for answer in found] == [answer[:2] for answer in expected]
        assert max(seen) == (at_once, threads // at_once)

    def test_samples_follow_the_models_probabilities(self, folder: Path) -> None:
        import torch

        from reclm.llm.models.loading import load_model, load_tokenizer
        from reclm.llm.prompts.templates import encode

        model, tokenizer = load_model(folder, Settings()), load_tokenizer(folder)
        with torch.inference_mode():
            logits = model(torch.tensor([encode(tokenizer, PROMPTS[0])])).logits[0, -1] / 3
        expected = float(logits.softmax(0).max())
        word = tokenizer.decode([int(logits.argmax())]).strip()
        engine = TransformersEngine(Settings(), str(folder), model=model, tokenizer=tokenizer)
        how = {"kinds": ["user"], "temperature": 3.0, "max_tokens": 1, "structured": False}
        answers = (engine.answer(PROMPTS[:1], seed=seed, **how) for seed in range(300))  # type: ignore[arg-type]
        drawn = [next(one)[1].text for one in answers]
        assert abs(drawn.count(word) / 300 - expected) < 3.5 * (expected * (1 - expected) / 300) ** 0.5

    def test_an_answer_ends_at_the_end_token_and_counts_it(self, folder: Path) -> None:
        from reclm.llm.models.loading import load_tokenizer

        whole = written(folder, PROMPTS, 64)
        tokenizer = load_tokenizer(folder)
        tokenizer.eos_token = tokenizer.tokenize(whole[0].text)[5]
        engine = TransformersEngine(Settings(), str(folder), tokenizer=tokenizer)
        options = {"temperature": 0.0, "seed": 1, "max_tokens": 24, "structured": False}
        answers = dict(engine.answer(PROMPTS, kinds=["user"] * len(PROMPTS), **options))  # type: ignore[arg-type]
        assert answers[0].tokens <= 6 < whole[0].tokens
        for row, answer in answers.items():
            assert whole[row].text.startswith(answer.text)
            assert answer.tokens < 24 or tokenizer.eos_token not in tokenizer.tokenize(answer.text)[:-1]
            assert answer.latency_ms > 0

    def test_a_prompt_longer_than_the_model_reads_is_refused(self, folder: Path) -> None:
        with pytest.raises(ModelError, match="max_prompt_tokens"):
            written(folder, [[{"role": "user", "content": "x " * 5000}]], 1)


class TestNoPhraseTwice:
    def test_no_phrase_starts_like_an_earlier_one_of_its_part(self, folder: Path) -> None:
        tokenizer = load_tokenizer(folder)

        def allowed(said: str) -> torch.Tensor:
            ids = tokenizer(said, add_special_tokens=False)["input_ids"]
            processor = NoPhraseTwice(tokenizer, 0, 1)
            for length in range(len(ids) + 1):
                written = torch.tensor([ids[:length]], dtype=torch.long)
                scores = processor(written, torch.zeros(1, len(tokenizer)))  # type: ignore[arg-type]
            return torch.isfinite(scores[0])

        rope, tea = (tokenizer(f", {word}", add_special_tokens=False)["input_ids"][1] for word in ("rope", "tea"))
        assert not allowed("User identity: rope,")[rope] and allowed("User identity: rope,")[tea]
        assert allowed("User identity: rope; User interests:")[rope]
        assert allowed("User identity: rope, tea")[rope]


class TestOpening:
    def test_an_engine_without_prompts_is_refused(self) -> None:
        with (
            pytest.raises(ModelError, match="answers no prompts"),
            open_engine(Settings(profiles={"engine": "extractive"}), ""),  # type: ignore[arg-type]
        ):
            pass

    def test_nothing_is_loaded_before_the_first_prompt(self, tmp_path: Path) -> None:
        with open_engine(Settings(), str(tmp_path / "missing"), "sft-1") as engine:
            assert (engine.name, engine.model_version) == ("transformers", "sft-1")
            assert list(
                engine.answer([], kinds=[], temperature=0.0, seed=1, max_tokens=4, structured=False)
            ) == []  # fmt: skip
