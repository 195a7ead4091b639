"""What is kept of a model on the validation slice: values a user, and what its lists are like."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from unit import backbones_world as bw

from reclm.backbones.base import Backbone
from reclm.dataset import EVALUATION_SETTINGS, EvaluationTask
from reclm.training import validation
from reclm.training.validation import mean_metric, metric_per_user, popularity_lift, write_validation

DATA = bw.toy_data()
TASKS = bw.toy_tasks(DATA)


def model(table: np.ndarray) -> Backbone:
    """A backbone whose score of user u and item i is `table[u, i]`."""
    fitted = SimpleNamespace(known=DATA.interactions)
    return cast(Backbone, SimpleNamespace(score=lambda users, setting: table[users].astype(np.float32), fitted=fitted))


KNOWS_WARM = model(TASKS[0].truth.toarray())


class TestTheFile:
    def test_holds_a_row_for_each_setting_and_measured_user(self, tmp_path: Path) -> None:
        write_validation(KNOWS_WARM, DATA, TASKS, tmp_path)
        rows = pq.read_table(tmp_path / "validation.parquet").to_pylist()
        assert {(row["setting"], row["user_id"]) for row in rows} == {
            (setting, user) for setting in EVALUATION_SETTINGS for user in DATA.user_ids.tolist()
        }
        assert len(rows) == 3 * bw.N_USERS
        assert list(rows[0]) == ["setting", "user_id", "recall", "ndcg"]

    def test_a_user_whose_item_comes_first_has_one_and_one_whose_item_comes_second_less(self, tmp_path: Path) -> None:
        table = TASKS[0].truth.toarray()
        table[0, (bw.WITHHELD[0] + 1) % bw.WARM_EACH] = 2  # known to the user, so it is left out
        table[1, bw.ITEMS_EACH] = 2  # of another circle, so it ranks before the withheld one
        write_validation(model(table), DATA, TASKS, tmp_path)
        values = metric_per_user(tmp_path, "full_shot", "ndcg")
        assert (values["user 0"], values["user 1"]) == (1.0, pytest.approx(1 / np.log2(3)))
        assert set(metric_per_user(tmp_path, "full_shot", "recall").values()) == {1.0}
        assert mean_metric(tmp_path, "full_shot", "ndcg") == pytest.approx(np.mean(list(values.values())))

    def test_without_tasks_is_there_and_empty(self, tmp_path: Path) -> None:
        assert write_validation(KNOWS_WARM, DATA, [], tmp_path) == {}
        assert pq.read_table(tmp_path / "validation.parquet").num_rows == 0
        assert mean_metric(tmp_path, "full_shot", "ndcg") is None

    def test_of_many_users_an_even_sample_is_measured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(validation, "MAX_VALIDATION_USERS", 3)
        write_validation(KNOWS_WARM, DATA, TASKS, tmp_path)
        assert metric_per_user(tmp_path, "full_shot", "ndcg") == {"user 0": 1.0, "user 11": 1.0, "user 23": 1.0}


class TestTheLists:
    def test_coverage_is_the_share_of_candidates_shown_to_anyone(self, tmp_path: Path) -> None:
        few = EvaluationTask("select", "full_shot", TASKS[0].truth, sparse.csr_matrix(TASKS[0].mask.shape), ~bw.COLD)
        same_for_all = model(np.tile(np.arange(bw.N_ITEMS), (bw.N_USERS, 1)))
        lists = write_validation(same_for_all, DATA, [few], tmp_path)
        assert lists["full_shot"]["coverage"] == 20 / 24

    def test_latency_is_in_milliseconds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter(np.cumsum(np.full(6 * bw.N_USERS, 0.25)))
        monkeypatch.setattr(validation.time, "perf_counter", lambda: float(next(clock)))
        assert write_validation(KNOWS_WARM, DATA, TASKS, tmp_path)["full_shot"]["latency_ms"] == 250.0


class TestPopularityLift:
    INTERACTIONS = sparse.csr_matrix(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]]))  # ranks 1, 0.5, 0

    def test_is_what_is_shown_less_what_is_known_user_by_user(self) -> None:
        lists = np.array([[2, 1], [2, -1]], np.int32)
        lift = popularity_lift(lists, np.array([0, 1]), self.INTERACTIONS)
        assert lift == pytest.approx(np.mean([0.25 - 1.0, 0.0 - 0.75]))

    def test_users_of_whom_nothing_is_known_are_left_out(self) -> None:
        lists = np.array([[1], [0]], np.int32)
        assert popularity_lift(lists, np.array([0, 2]), self.INTERACTIONS) == pytest.approx(0.5 - 1.0)
        assert popularity_lift(lists[1:], np.array([2]), self.INTERACTIONS) is None
