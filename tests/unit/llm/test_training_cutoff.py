"""Models that learned more than a build knows: they may not write for that build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.profiles_world import workspace

from reclm.errors import WorkspaceError
from reclm.llm.lineage import newest_model
from reclm.llm.models.training_cutoff import CUTOFF_KEY
from reclm.settings.tree import Settings
from reclm.storage import artifacts

CUTOFF = {"until": "2000-01-02T00:00:00+00:00", "seed": 42, "zero_shot_share": 0.0, "pseudo_cold_share": 0.1}


class TestAModelTrainedBeyondTheCutoff:
    @pytest.mark.parametrize(
        ("difference", "reason"),
        [
            ({"until": "2000-01-02T06:00:00+00:00"}, "learned from interactions until 2000-01-02T06"),
            ({"seed": 1}, "learned of items that this build withholds"),
            ({"pseudo_cold_share": 0.3}, "learned of items that this build withholds"),
        ],
    )
    @pytest.mark.parametrize("source", ["teacher", "base"])
    def test_may_not_write_for_this_build(
        self, source: str, difference: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = workspace(tmp_path, monkeypatch, profiles={"engine": "transformers"})
        add_model(settings, source, "f2", {CUTOFF_KEY: {**CUTOFF, **difference}})
        assert newest_model(settings, "f2")
        with pytest.raises(WorkspaceError, match=reason):
            newest_model(settings, "f1")
        for cutoff in (CUTOFF, {**CUTOFF, "until": "2000-01-01T00:00:00+00:00"}):
            allowed = add_model(settings, source, "f2", {CUTOFF_KEY: cutoff})
            add_model(settings, source, "f2", {CUTOFF_KEY: {**CUTOFF, **difference, "later": len(allowed)}})
            assert newest_model(settings, "f1").version == allowed


def add_model(settings: Settings, source: str, fingerprint: str, recorded: dict[str, Any]) -> str:
    """Add a refined model whose teacher or base records a training cutoff; return its version."""
    parameters = recorded if source == "base" else {"n": str(recorded)}
    with artifacts.writing(settings.paths, source, parameters, {}) as draft:
        draft.metrics.update(recorded if source == "teacher" else {})
    parents = {"warehouse": fingerprint, source: artifacts.version_of(source, parameters, {})}
    with artifacts.writing(settings.paths, "refine", {}, parents):
        pass
    return artifacts.version_of("refine", {}, parents)
