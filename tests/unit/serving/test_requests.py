"""What a request may say: ids, misspelt fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.serving.schemas import RecommendationRequest, is_valid_id

DBT = Path(__file__).resolve().parents[3] / "dbt"


class TestAnId:
    def test_that_the_build_accepts_is_accepted_by_the_service(self) -> None:
        assert is_valid_id("\N{GRINNING FACE}" * MAX_ID_CHARACTERS)
        assert not is_valid_id("x" * (MAX_ID_CHARACTERS + 1))
        text = "".join(path.read_text() for folder in ("models", "macros") for path in (DBT / folder).rglob("*.sql"))
        limits = {int(found) for found in re.findall(r"length\([\w.]*_id\) > (\d+)", text)}
        assert limits == {MAX_ID_CHARACTERS}


class TestAMisspeltField:
    @pytest.mark.parametrize(
        ("sent", "meant"), [("userId", "user_id"), ("User-ID", "user_id"), ("excludeSeen", "exclude_seen"), ("K", "k")]
    )
    def test_is_told_which_one_was_meant(self, sent: str, meant: str) -> None:
        with pytest.raises(ValidationError, match=rf"did you mean {meant}\?"):
            RecommendationRequest.model_validate({sent: 1})

    def test_that_is_like_none_is_told_all_and_not_repeated(self) -> None:
        with pytest.raises(ValidationError) as refused:
            RecommendationRequest.model_validate({"zzz": 1})
        (problem,) = refused.value.errors()
        assert "use user_id, history, k" in problem["msg"]
        assert "zzz" not in problem["msg"]
