"""A language model reads item texts: vectors of meaning, the same each time, beside those of the sentence encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_world import documents
from model_families import checkpoint
from numpy.typing import NDArray

from reclm.errors import ModelError
from reclm.settings.tree import Settings
from reclm.text import reader
from reclm.text.encoder import Encoder, embed_texts


def settings_of(folder: Path, name: str, **embedding: object) -> Settings:
    return Settings(
        workspace=folder / "workspace",
        embedding={"reader": name, **embedding},
        runtime={"threads": 1, "device": "cpu"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random language model: what it makes of texts means nothing, but differs from text to text."""
    return checkpoint("llama", tmp_path_factory.mktemp("reader") / "llama", documents())


@pytest.fixture(scope="module")
def read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return reader.load_reader(settings_of(tmp_path_factory.mktemp("read"), str(folder)))


class TestAReading:
    def test_is_of_length_one_and_of_both_depths(self, read: Encoder) -> None:
        vectors = embed_texts(read, ["one", "two words", "", "漢字 👍"], 2)
        assert vectors.shape == (4, 2 * 64) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors[:, :64], axis=1), np.sqrt(0.5), atol=1e-5)

    def test_does_not_depend_on_its_batch(self, read: Encoder) -> None:
        texts = ["short", "a much longer text about waterproof trekking boots and tents", "middle size"]
        alone = np.concatenate([embed_texts(read, [text], 1) for text in texts])
        np.testing.assert_allclose(embed_texts(read, texts, 3), alone, atol=1e-5)

    def test_ends_at_the_token_limit(self, folder: Path, tmp_path: Path) -> None:
        short = reader.load_reader(settings_of(tmp_path, str(folder), max_tokens=8))
        beginning = "one two three four five six seven eight nine ten"
        vectors = short([beginning, f"{beginning} entirely different ending"])
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)

    def test_takes_a_special_token_in_a_text_for_text(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded, seen = reader._load, list[int]()

        def watched(settings: Settings, name: str) -> tuple[Any, Any]:
            tokenizer, model = loaded(settings, name)
            forward = model.forward
            monkeypatch.setattr(model, "forward", lambda **given: seen.extend(given["input_ids"].flatten().tolist())
                                or forward(**given))  # fmt: skip
            special.update(tokenizer.all_special_ids)
            return tokenizer, model

        special: set[int] = set()
        monkeypatch.setattr(reader, "_load", watched)
        read = reader.load_reader(settings_of(tmp_path, str(folder)))
        seen.clear()
        read(["<|eot_id|><|begin_of_text|>"])
        assert special and seen and not special & set(seen)


class TestTheLabel:
    def test_is_that_of_the_encoder_without_a_reader(self, tmp_path: Path) -> None:
        assert reader.embedding_name(settings_of(tmp_path, "")) == "packaged-minilm@128"

    def test_names_the_content_of_a_folder_and_of_a_file_and_no_path(self, folder: Path, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        names = []
        for content in (b"one", b"two"):
            file.write_bytes(content)
            names.append(reader.embedding_name(settings_of(tmp_path, str(file))))
        names.append(reader.embedding_name(settings_of(tmp_path, str(folder))))
        assert len(set(names)) == 3
        assert all(name.startswith("packaged-minilm@128+") and "/" not in name for name in names)

    def test_of_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="there is no GGUF file"):
            reader.embedding_name(settings_of(tmp_path, str(tmp_path / "none.gguf")))


def test_both_vectors_stand_side_by_side_at_length_one() -> None:
    def one(texts: list[str]) -> NDArray[np.float32]:
        return np.tile(np.array([1, 0], np.float32), (len(texts), 1))

    both = reader.beside(one, one)(["a", "b"])
    assert both.shape == (2, 4)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6)
    assert both[0, 2] / both[0, 0] == pytest.approx(reader.WEIGHT)


def test_a_model_that_does_not_exist_is_named_with_what_may_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"embedding\.reader = .*no-model.*smollm2"):
        reader.load_reader(settings_of(tmp_path, str(tmp_path / "no-model")))


@pytest.mark.full
def test_the_packaged_model_knows_by_their_titles_which_things_are_alike(tmp_path: Path) -> None:
    groups = [
        ["The Exorcist", "Halloween", "A Nightmare on Elm Street"],
        ["Toy Story", "Aladdin", "The Lion King"],
        ["Star Wars", "Star Trek", "Alien"],
        ["Pretty Woman", "Sleepless in Seattle", "Notting Hill"],
    ]
    read = reader.load_reader(settings_of(tmp_path, "smollm2"))
    vectors = embed_texts(read, [title for group in groups for title in group], 4)
    group = np.repeat(np.arange(len(groups)), 3)
    same = (group[:, None] == group) & ~np.eye(len(group), dtype=bool)
    similarity = vectors @ vectors.T
    assert similarity[same].mean() > similarity[group[:, None] != group].mean() + 0.04
    things = embed_texts(read, ["Cast iron frying pan", "Acoustic guitar strings", "Trekking boots"], 3)
    others = embed_texts(read, ["Stainless steel saucepan", "Electric guitar amplifier", "Hiking socks"], 3)
    assert (things @ others.T).argmax(axis=1).tolist() == [0, 1, 2]
