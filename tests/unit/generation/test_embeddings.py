"""The embedding stage: each text once, nothing lost to a kill, and an encoder that knows what sentences mean."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from unit.profiles_world import workspace

from reclm.errors import ModelError, WorkspaceError
from reclm.generation import embeddings, stage
from reclm.generation.embeddings import Encoders
from reclm.settings.llm import EmbeddingSettings
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.text.encoder import Encoder, embed_texts, load_encoder, text_hash


class CountingEncoder:
    """Unit vectors made from a text's hash; remembers the texts it encoded, and fails after `lives` batches."""

    def __init__(self, lives: int = 10**9) -> None:
        self.lives, self.encoded = lives, list[str]()

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        if self.lives == 0:
            raise KeyboardInterrupt
        self.lives -= 1
        self.encoded += texts
        seeds = [int(text_hash(text)[:8], 16) for text in texts]
        vectors = np.stack([np.random.default_rng(seed).normal(size=4) for seed in seeds])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch, **of_world: str) -> tuple[Settings, dict[str, str]]:
    settings, current = workspace(folder, monkeypatch, **of_world)  # type: ignore[arg-type]
    small = EmbeddingSettings(batch_size=2, shard_size=5)
    settings = settings.model_copy(update={"embedding": small})
    stage.write_profiles(settings)
    return settings, current


def vectors_of(settings: Settings) -> dict[str, list[float]]:
    """{text_hash: vector} over all artifacts; fails when a text has two rows."""
    found: dict[str, list[float]] = {}
    for path in sorted((settings.paths.artifacts / "embeddings").glob("*/vectors-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert row["text_hash"] not in found
            found[row["text_hash"]] = row["embedding"]
    return found


def wanted_texts(settings: Settings) -> set[str]:
    texts: set[str] = set()
    for artifact in artifacts.all_of(settings.paths, "profiles"):
        for kind in ("user", "item"):
            texts |= set(pq.read_table(artifact.path / f"{kind}_profiles.parquet")["profile"].to_pylist())
    with duckdb.connect(str(settings.paths.warehouse), read_only=True) as connection:
        texts |= {row[0] for row in connection.execute("select full_text from dim_items").fetchall()}
    return {text for text in texts if text}


class TestEachTextOnce:
    def test_every_distinct_text_gets_one_vector_under_its_hash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, current = prepared(tmp_path, monkeypatch)
        encoder = CountingEncoder()
        artifact = embeddings.write_embeddings(settings, encoder)
        assert sorted(encoder.encoded) == sorted(wanted_texts(settings))
        found = vectors_of(settings)
        assert set(found) == {text_hash(text) for text in wanted_texts(settings)}
        for text in wanted_texts(settings):
            assert found[text_hash(text)] == pytest.approx(CountingEncoder()([text])[0].tolist())
        assert current["embeddings"] == artifact.version
        assert artifact.metrics["dim"] == 4

    def test_hashes_are_those_of_duckdb(self) -> None:
        for text in ("plain", "ünïcode 👩‍👩‍👧", "'; drop table"):
            row = duckdb.connect().execute("select sha256($1)", [text]).fetchall()[0]
            assert row == (text_hash(text),)

    def test_a_second_run_encodes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RECLM_VERBOSE", "1")
        settings, _ = prepared(tmp_path, monkeypatch)
        first = embeddings.write_embeddings(settings, CountingEncoder())
        assert embeddings.write_embeddings(settings, CountingEncoder(lives=0)).version == first.version
        assert "reusing embeddings" in capsys.readouterr().err

    def test_new_profiles_cost_only_their_new_texts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings, _ = prepared(tmp_path, monkeypatch)
        embeddings.write_embeddings(settings, CountingEncoder())
        before = set(vectors_of(settings))
        fewer = settings.profiles.model_copy(update={"interests": 3})
        settings = settings.model_copy(update={"profiles": fewer})
        stage.write_profiles(settings)
        encoder = CountingEncoder()
        embeddings.write_embeddings(settings, encoder)
        assert encoder.encoded
        assert not {text_hash(text) for text in encoder.encoded} & before
        assert set(vectors_of(settings)) == {text_hash(text) for text in wanted_texts(settings)}

    def test_profiles_without_new_texts_get_an_artifact_without_rows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = prepared(tmp_path, monkeypatch)
        embeddings.write_embeddings(settings, CountingEncoder())
        profiles = artifacts.all_of(settings.paths, "profiles")[-1]
        subset = dict(list(_texts(settings, profiles).items())[:3])
        artifact = embeddings._embed(settings, profiles, subset, set(), Encoders(settings, CountingEncoder(lives=0)))
        assert pq.read_table(artifact.path / "vectors-00000.parquet").num_rows == 0
        assert artifact.metrics["dim"] == 4
        assert embeddings._embed(settings, profiles, subset, set(), Encoders(settings)).version == artifact.version

    def test_another_model_or_token_limit_shares_no_vectors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = prepared(tmp_path, monkeypatch)
        embeddings.write_embeddings(settings, CountingEncoder())
        longer = settings.embedding.model_copy(update={"max_tokens": 256})
        encoder = CountingEncoder()
        embeddings.write_embeddings(settings.model_copy(update={"embedding": longer}), encoder)
        assert sorted(encoder.encoded) == sorted(wanted_texts(settings))


def _texts(settings: Settings, profiles: artifacts.Artifact) -> dict[str, str]:
    with duckdb.connect(str(settings.paths.warehouse), read_only=True) as connection:
        return embeddings.distinct_texts(connection, [profiles.path])


class TestInterruption:
    @pytest.mark.parametrize("lives", [0, 1, 4, 7])
    def test_a_killed_run_continues_at_its_unfinished_shard(
        self, lives: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        undisturbed, _ = prepared(tmp_path / "whole", monkeypatch)
        whole = embeddings.write_embeddings(undisturbed, CountingEncoder())
        settings, _ = prepared(tmp_path / "killed", monkeypatch)
        dying, second = CountingEncoder(lives), CountingEncoder()
        with pytest.raises(KeyboardInterrupt):
            embeddings.write_embeddings(settings, dying)
        assert artifacts.all_of(settings.paths, "embeddings") == []
        artifact = embeddings.write_embeddings(settings, second)
        repeated = set(dying.encoded) & set(second.encoded)
        assert len(repeated) < settings.embedding.shard_size
        assert artifact.version == whole.version
        for shard in whole.path.glob("*.parquet"):
            assert (artifact.path / shard.name).read_bytes() == shard.read_bytes()

    def test_half_a_shard_left_by_a_kill_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / ".vectors-00000.parquet.tmp").write_bytes(b"half")
        texts = {text_hash(text): text for text in ("a", "b")}
        embeddings.write_shards(tmp_path, [(CountingEncoder(), sorted(texts))], texts, EmbeddingSettings(), "m", "v")
        assert [path.name for path in tmp_path.iterdir()] == ["vectors-00000.parquet"]


class TestAReader:
    @pytest.fixture
    def reading(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
        """Settings with a reader, which is the counting encoder."""
        settings, _ = prepared(tmp_path, monkeypatch)
        (tmp_path / "reader").mkdir()
        monkeypatch.setattr(embeddings, "load_reader", lambda settings: CountingEncoder())
        with_reader = settings.embedding.model_copy(update={"reader": str(tmp_path / "reader")})
        return settings.model_copy(update={"embedding": with_reader})

    def test_reads_item_texts_and_leaves_profiles_alone(self, reading: Settings) -> None:
        artifact = embeddings.write_embeddings(reading, CountingEncoder())
        with duckdb.connect(str(reading.paths.warehouse), read_only=True) as connection:
            items = embeddings.item_texts(connection)
        widths = {key: len(vector) for key, vector in vectors_of(reading).items()}
        assert {width for key, width in widths.items() if key in items} == {8}
        assert {width for key, width in widths.items() if key not in items} == {4}
        assert artifact.metrics["dim"] == 4
        of_shards = [{len(vector) for vector in pq.read_table(shard)["embedding"].to_pylist()}
                     for shard in sorted(artifact.path.glob("vectors-*.parquet"))]  # fmt: skip
        assert all(len(widths) == 1 for widths in of_shards)

    def test_that_comes_later_changes_the_label_and_takes_the_sentence_vectors_of_before(
        self, reading: Settings
    ) -> None:
        without = reading.model_copy(update={"embedding": reading.embedding.model_copy(update={"reader": ""})})
        before = embeddings.write_embeddings(without, CountingEncoder())
        vectors = vectors_of(without)
        after = embeddings.write_embeddings(reading, CountingEncoder(lives=0))
        names = [artifact.manifest["parameters"]["model"] for artifact in (before, after)]
        assert names[1].startswith(f"{names[0]}+reader-")
        assert after.metrics["new"] == before.metrics["new"]
        shutil.rmtree(before.path)
        for key, vector in vectors_of(reading).items():
            beginning = np.array(vector[:4]) / np.linalg.norm(vector[:4])
            assert beginning == pytest.approx(np.array(vectors[key]), abs=1e-6)

    def test_is_not_loaded_when_no_item_is_new(self, reading: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        embeddings.write_embeddings(reading, CountingEncoder())
        fewer = reading.profiles.model_copy(update={"interests": 3})
        settings = reading.model_copy(update={"profiles": fewer})
        stage.write_profiles(settings)
        monkeypatch.setattr(embeddings, "load_reader", lambda settings: pytest.fail("loaded"))
        assert embeddings.write_embeddings(settings, CountingEncoder()).metrics["new"] > 0


class TestFaults:
    def test_a_vector_that_is_not_finite_is_refused_with_its_text(self) -> None:
        with pytest.raises(ModelError, match="'bad text'"):
            embed_texts(lambda texts: np.full((len(texts), 2), np.nan, np.float32), ["bad text"], 8)

    def test_without_profiles_the_message_names_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        with pytest.raises(WorkspaceError, match="reclm profile"):
            embeddings.write_embeddings(settings, CountingEncoder())

    def test_the_message_names_a_device_that_does_not_exist(self) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        with pytest.raises(ModelError, match=r"runtime\.device = 'cuda'"):
            load_encoder(Settings(runtime={"device": "cuda"}))  # type: ignore[arg-type]

    def test_the_message_names_a_model_that_does_not_exist(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        settings = Settings(embedding=EmbeddingSettings(model=str(tmp_path / "no-model")))
        with pytest.raises(ModelError, match="no-model"):
            load_encoder(settings)


@pytest.fixture(scope="module")
def minilm() -> Iterator[Encoder]:
    import torch

    threads = torch.get_num_threads()
    yield load_encoder(Settings(runtime={"threads": 1, "device": "cpu"}))  # type: ignore[arg-type]
    torch.set_num_threads(threads)


class TestPackagedEncoder:
    def test_sentences_of_the_same_meaning_are_nearest(self, minilm: Encoder) -> None:
        pairs = [
            ("A man is playing a guitar.", "Someone performs music on a string instrument."),
            ("The stock market fell sharply.", "Share prices dropped a lot today."),
            ("User interests: espresso, grinders", "User interests: coffee beans, baristas"),
            ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
        ]
        left = embed_texts(minilm, [pair[0] for pair in pairs], 4)
        right = embed_texts(minilm, [pair[1] for pair in pairs], 4)
        similarity = left @ right.T
        off_diagonal = similarity[~np.eye(len(pairs), dtype=bool)]
        assert similarity.diagonal().min() > off_diagonal.max() + 0.1

    def test_its_vectors_are_384_wide_float32_and_of_length_one(self, minilm: Encoder) -> None:
        vectors = embed_texts(minilm, ["one", "two words", "", "漢字 👍"], 2)
        assert vectors.shape == (4, 384)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_a_texts_vector_does_not_depend_on_its_batch(self, minilm: Encoder) -> None:
        texts = ["short", "a much longer sentence about waterproof trekking boots and tents", "middle size text"]
        together = embed_texts(minilm, texts, 3)
        alone = np.concatenate([embed_texts(minilm, [text], 1) for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-5)

    def test_texts_are_read_up_to_the_token_limit(self) -> None:
        settings = Settings(embedding=EmbeddingSettings(max_tokens=8), runtime={"threads": 1})  # type: ignore[arg-type]
        encoder = load_encoder(settings)
        beginning = "one two three four five six seven eight nine"
        vectors = embed_texts(encoder, [beginning, beginning + " entirely different ending"], 2)
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
