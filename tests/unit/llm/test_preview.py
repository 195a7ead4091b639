"""Previewing a teacher: whether a language model can be trained is read, never bought or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.profiles_world import workspace

from reclm.llm.teacher.stage import load_teacher, preview_teacher, write_teacher
from reclm.storage import artifacts


class TestAPreview:
    def test_of_keywords_is_what_would_be_written_and_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        before = sorted(settings.paths.root.rglob("*"))
        preview = preview_teacher(settings)
        assert preview is not None and sorted(settings.paths.root.rglob("*")) == before
        artifact = write_teacher(settings)
        assert artifact is not None and preview.profiles == load_teacher(settings, artifact).profiles

    def test_reads_the_finished_artifact_where_there_is_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch)
        artifact, preview = write_teacher(settings), preview_teacher(settings)
        assert artifact is not None and preview is not None and preview.version == artifact.version

    def test_of_an_endpoint_that_was_never_asked_is_unknown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch, teacher={"engine": "openai"})
        assert preview_teacher(settings) is None
        assert artifacts.all_of(settings.paths, "teacher") == []
