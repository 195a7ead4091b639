"""The settings tree: precedence, and errors that name the nearest right key."""

from pathlib import Path

import pytest

from reclm.errors import SettingsError
from reclm.settings.loading import describe, load


class TestPrecedence:
    def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "reclm.toml"
        file.write_text("seed = 1\n[train]\nepochs = 2\nfactors = 16\ndim = 8\n")
        loaded = load(
            ["train.epochs=4"], file=file, environment={"RECLM_TRAIN__EPOCHS": "3", "RECLM_TRAIN__FACTORS": "32"}
        )
        assert (loaded.seed, loaded.train.dim, loaded.train.factors, loaded.train.epochs) == (1, 8, 32, 4)

    def test_the_workspace_option_beats_everything(self, tmp_path: Path) -> None:
        loaded = load(workspace=tmp_path, environment={"RECLM_WORKSPACE": "/elsewhere"})
        assert loaded.paths.root == tmp_path.resolve()

    def test_the_file_named_by_the_environment_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text("seed = 9\n")
        assert load(environment={"RECLM_SETTINGS": str(file)}).seed == 9

    def test_lists_may_be_written_with_commas_or_as_json(self) -> None:
        assert load(["train.seeds=1,2"], environment={}).train.seeds == (1, 2)
        assert load(['train.models=["als","ncf"]'], environment={}).train.models == ("als", "ncf")

    def test_a_format_of_times_may_hold_commas_and_several_are_json(self) -> None:
        assert load(["data.timestamp_format=%m %d, %Y"], environment={}).data.timestamp_format == ("%m %d, %Y",)
        several = load(['data.timestamp_format=["%d.%m.%Y","epoch_s"]'], environment={}).data.timestamp_format
        assert several == ("%d.%m.%Y", "epoch_s")


class TestAListOfTexts:
    def test_may_hold_one_that_begins_with_a_bracket(self) -> None:
        form = "[%d/%b/%Y:%H:%M:%S]"
        assert load([f"data.timestamp_format={form}"], environment={}).data.timestamp_format == (form,)


class TestMistakes:
    @pytest.mark.parametrize(
        ("flags", "environment", "expected"),
        [
            (["trian.epochs=3"], {}, "did you mean 'train.epochs'"),
            (["epochs=3"], {}, "did you mean"),
            ([], {"RECLM_TRAIN__EPOCH": "3"}, "RECLM_TRAIN__EPOCH"),
            (["train.models=lightgnc"], {}, "did you mean 'lightgcn'"),
            (["train.epochs=0"], {}, "train.epochs"),
            (["train.epochs"], {}, "key=value"),
            (["data.timestamp_format=dd.mm.yyyy"], {}, "no format of strptime"),
            (["data.timestamp_format=%Q"], {}, "%Q, which strptime does not know"),
            (["data.time_zone=Mars"], {}, "no time zone; write e.g. Europe/Berlin"),
            (["data.time_zone=localtime"], {}, "no time zone"),
            (["split.train_share=0.95"], {}, "no test slice"),
        ],
    )
    def test_each_names_the_key_and_the_remedy(
        self, flags: list[str], environment: dict[str, str], expected: str
    ) -> None:
        with pytest.raises(SettingsError, match=expected):
            load(flags, environment=environment)

    def test_a_typo_in_the_file_names_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "reclm.toml"
        file.write_text("[train]\nepoch = 2\n")
        with pytest.raises(SettingsError, match=r"reclm\.toml.*did you mean 'train\.epochs'"):
            load(file=file, environment={})

    def test_a_missing_or_broken_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="does not exist"):
            load(file=tmp_path / "none.toml", environment={})
        (tmp_path / "bad.toml").write_text("= 3")
        (tmp_path / "binary.toml").write_bytes(b"seed = \xff")
        with pytest.raises(SettingsError, match="not valid TOML"):
            load(file=tmp_path / "binary.toml", environment={})
        with pytest.raises(SettingsError, match="not valid TOML"):
            load(file=tmp_path / "bad.toml", environment={})


class TestDocumentation:
    def test_every_key_has_a_description(self) -> None:
        assert [key for key, _, _, description in describe() if len(description) < 8] == []
