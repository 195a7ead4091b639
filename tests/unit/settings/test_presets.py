"""Presets of language models: below everything that a person gives, and not remembered as if given."""

from __future__ import annotations

from pathlib import Path

import pytest

from reclm.errors import SettingsError
from reclm.llm.models.versions import shared_parameters
from reclm.settings import machine
from reclm.settings.loading import known_keys, load
from reclm.settings.memory import notes, recall, remember, value_of
from reclm.settings.operations import RuntimeSettings
from reclm.settings.presets import PRESETS

SMOLLM2 = "llm.preset=smollm2"


@pytest.mark.parametrize("name", PRESETS)
def test_each_sets_what_it_says(name: str, tmp_path: Path) -> None:
    settings = load([f"llm.preset={name}"], workspace=tmp_path, environment={})
    assert set(PRESETS[name]) <= set(known_keys())
    assert {key: value_of(settings, key) for key in PRESETS[name]} == PRESETS[name]
    assert {settings.given[key].source for key in PRESETS[name]} <= {"preset"}


def test_an_unknown_one_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"llm\.preset: unknown name 'gpt'.*smollm2"):
        load(["llm.preset=gpt"], workspace=tmp_path, environment={})


class TestWhatAPersonGives:
    def test_comes_first_wherever_it_is_given(self, tmp_path: Path) -> None:
        given = load([SMOLLM2], workspace=tmp_path, environment={"RECLM_LLM__HISTORY": "3"})
        assert (given.llm.history, given.llm.max_prompt_tokens) == (3, 1024)

    def test_is_remembered_even_where_it_is_the_default_of_the_tree(self, tmp_path: Path) -> None:
        remember(load([SMOLLM2, "llm.max_prompt_tokens=256"], workspace=tmp_path, environment={}))
        assert set(recall(load(workspace=tmp_path, environment={}).paths)) == {"llm.preset", "llm.max_prompt_tokens"}
        later = load(workspace=tmp_path, environment={})
        assert (later.llm.max_prompt_tokens, later.llm.base_model) == (256, "smollm2")

    def test_alone_is_said_to_be_remembered(self, tmp_path: Path) -> None:
        remember(load([SMOLLM2], workspace=tmp_path, environment={}))
        later = load(workspace=tmp_path, environment={})
        assert notes(later) == ["settings remembered from earlier commands: llm.preset=smollm2"]

    def test_that_is_the_default_again_ends_the_preset(self, tmp_path: Path) -> None:
        remember(load([SMOLLM2], workspace=tmp_path, environment={}))
        remember(load(["llm.preset=tiny"], workspace=tmp_path, environment={}))
        assert load(workspace=tmp_path, environment={}).llm.base_model == "tiny"


def test_a_model_is_the_same_whether_a_preset_or_a_person_chose_its_settings(tmp_path: Path) -> None:
    by_hand = [f"{key}={str(value).lower()}" for key, value in PRESETS["smollm2"].items()]
    chosen = [load(flags, workspace=tmp_path, environment={}) for flags in ([SMOLLM2], by_hand)]
    assert shared_parameters(chosen[0]) == shared_parameters(chosen[1])


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu sse2 avx2 avx512f", False), ("avx512f avx512_bf16 amx_bf16", True), (None, False)]
)
def test_a_processor_computes_in_bfloat16_where_it_has_instructions_for_it(
    flags: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = tmp_path / "cpuinfo"
    if flags is not None:
        described.write_text(f"processor : 0\nflags : {flags}\n")
    found = machine._has_bfloat16(described)
    assert found is expected
    monkeypatch.setattr(machine, "_has_bfloat16", lambda: found)
    runtime = RuntimeSettings(device="cpu", dtype="bfloat16")
    assert str(machine.dtype_of(runtime)) == ("torch.bfloat16" if expected else "torch.float32")
    assert str(machine.dtype_of(RuntimeSettings(device="cpu"))) == "torch.float32"
