"""A workspace remembers the settings that people gave to its commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reclm.errors import SettingsError
from reclm.settings.loading import load
from reclm.settings.memory import notes, remember
from reclm.settings.tree import Settings


def given(workspace: Path, *flags: str, file: Path | None = None, **environment: str) -> Settings:
    return load(flags, workspace=workspace, file=file, environment=environment)


def remembered(workspace: Path) -> dict[str, Any]:
    return {key: about["value"] for key, about in json.loads((workspace / "settings.json").read_text()).items()}


class TestARememberedSetting:
    def test_is_in_force_without_being_given_again(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.models=als,lightgcn", RECLM_TRAIN__EPOCHS="3"))
        later = given(tmp_path)
        assert (later.train.models, later.train.epochs) == (("als", "lightgcn"), 3)
        assert {key: about.source for key, about in later.given.items() if key != "workspace"} == {
            "train.models": "remembered",
            "train.epochs": "remembered",
        }

    def test_gives_way_to_file_environment_and_flag(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.epochs=1", "train.dim=2", "train.layers=1", "seed=1"))
        (file := tmp_path / "reclm.toml").write_text("[train]\nepochs = 20\ndim = 20\nlayers = 2\n")
        later = given(tmp_path, "train.layers=4", file=file, RECLM_TRAIN__DIM="30")
        assert (later.train.epochs, later.train.dim, later.train.layers, later.seed) == (20, 30, 4, 1)

    def test_stays_remembered_when_another_one_is_given(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.epochs=3"))
        remember(given(tmp_path, "train.dim=8"))
        assert remembered(tmp_path) == {"train.epochs": 3, "train.dim": 8}

    def test_is_forgotten_when_the_default_is_given(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.epochs=3", "train.dim=8"))
        remember(given(tmp_path, "train.epochs=40"))
        assert remembered(tmp_path) == {"train.dim": 8}

    def test_stays_as_another_command_left_it_meanwhile(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.epochs=3", "train.dim=8"))
        long_one = given(tmp_path, "seed=5")
        remember(given(tmp_path, "train.epochs=40", "train.layers=4"))
        remember(long_one)
        assert remembered(tmp_path) == {"train.dim": 8, "train.layers": 4, "seed": 5}

    def test_of_a_settings_file_is_void_once_the_file_says_it_no_more(self, tmp_path: Path) -> None:
        (file := tmp_path / "reclm.toml").write_text("[train]\nepochs = 3\ndim = 8\n")
        remember(given(tmp_path, file=file))
        assert given(tmp_path).train.epochs == 3
        remember(given(tmp_path))
        file.write_text("[train]\ndim = 8\n")
        assert given(tmp_path, file=file).train.epochs == 40

    def test_may_name_the_variable_that_holds_a_key(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "openai.api_key_env=MY_KEY", "feast.redis_url=store:6379"))
        assert remembered(tmp_path) == {"openai.api_key_env": "MY_KEY", "feast.redis_url": "store:6379"}

    def test_that_this_version_does_not_know_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "settings.json").write_text('{"train.gone": {"value": 1, "from": "flag"}}')
        assert "train.gone" not in given(tmp_path).given

    def test_that_this_version_refuses_is_named_with_the_remedy(self, tmp_path: Path) -> None:
        (tmp_path / "settings.json").write_text('{"train.epochs": {"value": 0, "from": "flag"}}')
        with pytest.raises(SettingsError, match=r"remembered by the workspace.*--set train\.epochs="):
            given(tmp_path)
        assert given(tmp_path, "train.epochs=2").train.epochs == 2

    @pytest.mark.parametrize("content", ["[]", '{"train.epochs": 3}', '{"train.epochs": {"value": 3}}'])
    def test_file_of_another_shape_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(SettingsError, match=r"settings\.json.*delete it"):
            given(tmp_path)


class TestNotRemembered:
    @pytest.mark.parametrize(
        "flag",
        ["runtime.threads=1", "train.jobs=1", "serve.port=1", "serve.host=0.0.0.0", "data.as_of=2024-01-01"],
    )
    def test_is_what_belongs_to_a_machine_a_process_or_a_build(self, tmp_path: Path, flag: str) -> None:
        remember(given(tmp_path, flag))
        assert remembered(tmp_path) == {}

    @pytest.mark.parametrize(
        "flag",
        [
            "feast.redis_url=store:6379,password=hunter2",
            "openai.base_url=https://me:hunter2@example.org/v1",
            "openai.base_url=https://example.org/v1?api_key=hunter2",
        ],
    )
    def test_is_a_secret(self, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
        remember(given(tmp_path, flag, "train.epochs=3"))
        assert remembered(tmp_path) == {"train.epochs": 3}
        said = capsys.readouterr().err
        assert flag.partition("=")[0] in said
        assert "hunter2" not in said


class TestNotes:
    def test_name_what_is_remembered_and_used(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.models=als,ncf", "profiles.engine=extractive"))
        assert notes(given(tmp_path)) == [
            "settings remembered from earlier commands: profiles.engine=extractive, train.models=als,ncf"
        ]

    def test_name_what_differs_and_what_makes_it_anew(self, tmp_path: Path) -> None:
        remember(given(tmp_path, "train.epochs=3"))
        split, epochs = notes(given(tmp_path, "train.epochs=5", "split.train_share=0.7"))
        assert split == "split.train_share=0.7, until now 0.8: `reclm build` and the stages after it make new results"
        assert epochs == "train.epochs=5, until now 3: `reclm train` and the stages after it make new results"

    def test_are_none_when_the_same_is_given_again_or_nothing_was_made_yet(self, tmp_path: Path) -> None:
        assert notes(given(tmp_path, "train.models=als")) == []
        remember(given(tmp_path, "train.models=als"))
        assert notes(given(tmp_path, "train.models=als")) == []
