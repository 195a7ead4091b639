"""How many processes train, and how errors of a child process reach the caller."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reclm.errors import WorkspaceError
from reclm.settings.tree import Settings
from reclm.training.pool import processes, train_in_processes

Make = Callable[..., Settings]


@pytest.mark.parametrize(
    ("jobs", "threads", "models", "found"),
    [
        (2, 2, 4, 2),
        (2, 8, 40, 2),
        (4, 2, 40, 2),
        (2, 1, 40, 1),
        (1, 8, 40, 1),
        (4, 8, 5, 2),
        (2, 2, 3, 1),
        (2, 2, 0, 1),
    ],
)
def test_processes_are_limited_by_jobs_threads_and_two_models_each(
    workspace_settings: Make, jobs: int, threads: int, models: int, found: int
) -> None:
    settings = workspace_settings(train={"jobs": jobs}, runtime={"threads": threads, "device": "cpu"})
    assert processes(settings, models, 100_000) == found


def test_a_small_log_is_trained_without_further_processes(workspace_settings: Make) -> None:
    settings = workspace_settings(train={"jobs": 2}, runtime={"threads": 2, "device": "cpu"})
    assert [processes(settings, 6, interactions) for interactions in (600, 6_000)] == [1, 2]


def test_a_reclm_error_keeps_its_class_and_message(workspace_settings: Make, capfd: pytest.CaptureFixture[str]) -> None:
    settings = workspace_settings(runtime={"threads": 2, "device": "cpu"})
    identities = [
        ({"model": "als", "variant": "base", "seed": seed}, {"features": "", "warehouse": ""}) for seed in (1, 2)
    ]
    with pytest.raises(WorkspaceError, match="reclm"):
        list(train_in_processes(settings, 2, identities))
    assert "Traceback" not in capfd.readouterr().err


def test_any_other_error_comes_with_its_traceback(workspace_settings: Make, capfd: pytest.CaptureFixture[str]) -> None:
    settings = workspace_settings(runtime={"threads": 2, "device": "cpu"})
    with pytest.raises(RuntimeError, match="KeyError"):
        list(train_in_processes(settings, 2, [({"model": "als"}, {})] * 2))
    assert "Traceback" in capfd.readouterr().err
