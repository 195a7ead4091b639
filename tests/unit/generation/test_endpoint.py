"""Profiles by an endpoint depend on which model it serves, also when its name stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reclm.errors import ModelError
from reclm.generation.writer import decoding_parameters, endpoint_parameters
from reclm.llm.engines import openai
from reclm.llm.engines.openai import ServedModel
from reclm.settings.tree import Settings
from reclm.storage import artifacts

URL = "http://models:8000/v1"


def endpoint(folder: Path, **options: Any) -> Settings:
    sections: dict[str, Any] = {"profiles": {"engine": "openai"}, "openai": {"base_url": URL, **options}}
    return Settings(workspace=folder, **sections)


@pytest.fixture
def serves(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the endpoint answers: a revision of `m`, or an error."""

    def set_to(answer: str | ModelError) -> None:
        def served_model(settings: Settings, *, retries: int | None = None) -> ServedModel:
            if isinstance(answer, ModelError):
                raise answer
            return ServedModel("m", answer)

        monkeypatch.setattr(openai, "served_model", served_model)

    return set_to


def write_profiles(settings: Settings) -> None:
    with artifacts.writing(settings.paths, "profiles", endpoint_parameters(settings), {}):
        pass


class TestAModelThatWasTunedAgain:
    def test_makes_profiles_of_another_version_and_says_so(
        self, tmp_path: Path, serves: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = endpoint(tmp_path)
        serves("created 1")
        write_profiles(settings)
        assert endpoint_parameters(settings) == {"base_url": URL, "model": "m", "revision": "created 1"}
        assert capsys.readouterr().err == ""
        serves("created 2")
        assert endpoint_parameters(settings)["revision"] == "created 2"
        said = capsys.readouterr().err
        for part in ("another state of 'm'", "created 1", "created 2", "written anew", "openai.revision"):
            assert part in said

    def test_is_no_news_where_the_server_says_nothing(
        self, tmp_path: Path, serves: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        serves("")
        write_profiles(endpoint(tmp_path))
        assert endpoint_parameters(endpoint(tmp_path)) == {"base_url": URL, "model": "m"}
        assert capsys.readouterr().err == ""


class TestAnEndpointThatIsDown:
    def test_counts_as_unchanged_where_the_settings_name_its_model(
        self, tmp_path: Path, serves: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = endpoint(tmp_path, model="m")
        serves("created 1")
        write_profiles(settings)
        serves(ModelError("no answer"))
        assert endpoint_parameters(settings)["revision"] == "created 1"
        assert "no answer" in capsys.readouterr().err

    def test_is_an_error_where_nothing_names_the_model(self, tmp_path: Path, serves: Any) -> None:
        serves(ModelError("no answer"))
        with pytest.raises(ModelError, match="no answer"):
            endpoint_parameters(endpoint(tmp_path))


def test_the_request_fields_of_the_settings_are_part_of_the_version_for_an_endpoint_alone(tmp_path: Path) -> None:
    plain, other = endpoint(tmp_path), endpoint(tmp_path, max_tokens=4000, extra={"top_p": 0.5})
    assert decoding_parameters(plain) | {"max_tokens": 4000, "extra": {"top_p": 0.5}} == decoding_parameters(other)
    keywords = other.model_copy(update={"profiles": other.profiles.model_copy(update={"engine": "transformers"})})
    assert decoding_parameters(keywords) == decoding_parameters(plain)
