"""Each baseline against its textbook formula on a small log, and against the published figures on the shared data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from reclm.backbones.baselines import (
    ANSWERS,
    TUNED,
    fit_baseline,
    strongest_predicted_popularity,
    tune,
    why_not,
)
from reclm.backbones.closed_form import MAX_DENSE_ITEMS, NEEDS_TEXT
from reclm.backbones.metrics import metrics_per_user, recall_and_ndcg
from reclm.backbones.ranking import rank, truth_ranks
from reclm.dataset import EvaluationTask, TrainingData
from reclm.errors import ModelError
from reclm.evaluation.report.reference import baseline_rows
from reclm.settings.recommenders import BASELINES
from reclm.text.tfidf import ASCII_WORDS, tfidf

WORDS = ["space", "love", "war", "school", "magic", "robot", "sea", "cat", "dog", "moon", "sword", "song"]
N_USERS, N_ITEMS, N_COLD = 40, 30, 6
WARM = np.arange(N_ITEMS) < N_ITEMS - N_COLD


@pytest.fixture
def data() -> TrainingData:
    """40 users, 24 warm items of which one has no interactions, 6 cold ones; texts of three words each."""
    rng = np.random.default_rng(3)
    known = (rng.random((N_USERS, N_ITEMS)) < 0.2) & WARM
    known[:, 5] = False
    texts = [" ".join(rng.choice(WORDS, 3, replace=False)) for _ in range(N_ITEMS)]
    return TrainingData(
        "final",
        np.array([f"u{u:02d}" for u in range(N_USERS)]),
        np.array([f"i{i:02d}" for i in range(N_ITEMS)]),
        sparse.csr_matrix(known.astype(np.float32)),
        texts,
    )


def scores(name: str, data: TrainingData, **options: object) -> np.ndarray:
    return fit_baseline(name, data, 1, available=WARM, **options).score(np.arange(N_USERS))


class TestEveryBaselineEqualsItsFormula:
    def test_popularity_counts(self, data: TrainingData) -> None:
        expected = np.tile(data.interactions.toarray().sum(axis=0), (N_USERS, 1))
        np.testing.assert_array_equal(scores("popularity", data), expected)

    def test_itemknn_sums_cosines_to_other_items(self, data: TrainingData) -> None:
        known = data.interactions.toarray()
        norms = np.maximum(np.sqrt(known.sum(axis=0)), 1)
        cosine = known.T @ known / np.outer(norms, norms)
        np.fill_diagonal(cosine, 0)
        np.testing.assert_allclose(scores("itemknn", data), known @ cosine, atol=1e-5)

    def test_ease_is_the_closed_form_and_gives_unknown_items_nothing(self, data: TrainingData) -> None:
        known = data.interactions.toarray().astype(float)
        inverse = np.linalg.inv(known.T @ known + 100 * np.eye(N_ITEMS))
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        np.testing.assert_allclose(scores("ease", data), known @ weights, atol=1e-6)

    @pytest.mark.parametrize(("name", "power"), [("content_cosine", 1), ("content_knn", 3)])
    def test_content_scores_are_sums_of_text_cosines(self, data: TrainingData, name: str, power: int) -> None:
        content = tfidf(data.texts, words=ASCII_WORDS).toarray()
        expected = data.interactions.toarray() @ (content @ content.T) ** power
        np.testing.assert_allclose(scores(name, data), expected, atol=1e-5)

    @pytest.mark.parametrize("spread", [0, 40])
    def test_ridge_predicts_every_user_from_text_over_words_or_items(self, data: TrainingData, spread: int) -> None:
        texts = [f"{text} {' '.join(f'w{i // 2}x{n}' for n in range(spread))}" for i, text in enumerate(data.texts)]
        data = TrainingData("final", data.user_ids, data.item_ids, data.interactions, texts)
        content = tfidf(texts, words=ASCII_WORDS).toarray()
        assert (np.count_nonzero(content.any(axis=0)) <= WARM.sum()) == (spread == 0)  # both ways of solving are taken
        warm = content[WARM]
        system = warm.T @ warm + 10 * np.eye(content.shape[1])
        to_users = np.linalg.solve(system, warm.T @ data.interactions.toarray()[:, WARM].T)
        np.testing.assert_allclose(scores("ridge", data), (content @ to_users).T, atol=1e-5)

    def test_predicted_popularity_is_a_ridge_to_centred_log_counts(self, data: TrainingData) -> None:
        content = tfidf(data.texts, words=ASCII_WORDS).toarray()
        target = np.log1p(data.interactions.toarray().sum(axis=0)[WARM])
        system = content[WARM].T @ content[WARM] + 10 * np.eye(content.shape[1])
        expected = content @ np.linalg.solve(system, content[WARM].T @ (target - target.mean()))
        np.testing.assert_allclose(
            scores("predicted_popularity", data, option=10.0), np.tile(expected, (N_USERS, 1)), atol=1e-6
        )


class TestATunedBaseline:
    @pytest.mark.parametrize("name", TUNED)
    def test_takes_the_value_that_is_best_on_the_validation_task(self, data: TrainingData, name: str) -> None:
        truth = np.roll(data.interactions.toarray(), 1, axis=0) * (data.interactions.toarray() == 0)
        task = EvaluationTask("select", "full_shot", sparse.csr_matrix(truth), data.interactions, WARM)

        def quality(value: float) -> float:
            scorer = fit_baseline(name, data, 1, available=WARM, option=value)
            return sum(recall_and_ndcg(scorer.score, task).values())

        qualities = {value: quality(value) for value in TUNED[name].values}
        assert qualities[tune(name, data, task, WARM)] == max(qualities.values()) > min(qualities.values())

    def test_of_item_neighbours_sums_over_the_nearest_only(self, data: TrainingData) -> None:
        known = data.interactions.toarray()
        norms = np.maximum(np.sqrt(known.sum(axis=0)), 1)
        cosine = known.T @ known / np.outer(norms, norms)
        np.fill_diagonal(cosine, 0)
        nearest = np.where(cosine >= np.sort(cosine[WARM], axis=0)[-4], cosine, 0)
        np.testing.assert_allclose(scores("itemknn_tuned", data, option=4), known @ nearest, atol=1e-5)


class TestRandomScores:
    def test_do_not_depend_on_the_batch_but_on_the_seed(self, data: TrainingData) -> None:
        whole = scores("random", data)
        again = fit_baseline("random", data, 1)
        np.testing.assert_array_equal(np.vstack([again.score(np.array([u])) for u in range(N_USERS)]), whole)
        assert (fit_baseline("random", data, 2).score(np.arange(N_USERS)) != whole).mean() > 0.99

    def test_are_uniform(self, data: TrainingData) -> None:
        drawn = np.sort(fit_baseline("random", data, 12345).score(np.arange(1000)).ravel())
        assert np.abs(drawn - np.linspace(0, 1, len(drawn))).max() < 0.02  # Kolmogorov-Smirnov


class TestWhatABaselineCannotDo:
    def test_an_unknown_name_is_refused_with_the_known_ones(self, data: TrainingData) -> None:
        with pytest.raises(ModelError, match="content_cosine"):
            fit_baseline("popularty", data, 1)

    @pytest.mark.parametrize("name", [name for name in NEEDS_TEXT if name in ANSWERS])
    def test_text_baselines_say_when_there_is_no_text(self, data: TrainingData, name: str) -> None:
        bare = TrainingData("final", data.user_ids, data.item_ids, data.interactions, [""] * N_ITEMS)
        with pytest.raises(ModelError, match="needs item texts"):
            fit_baseline(name, bare, 1)

    def test_item_matrices_are_refused_where_they_would_not_fit(self) -> None:
        n_items = MAX_DENSE_ITEMS + 1
        wide = TrainingData(
            "final",
            np.array(["u"]),
            np.arange(n_items).astype(str),
            sparse.csr_matrix((1, n_items), dtype=np.float32),
            ["text"] * n_items,
        )
        reasons = {name: why_not(name, wide) for name in BASELINES}
        assert [name for name, reason in reasons.items() if reason is None] == [
            "random",
            "popularity",
            "predicted_popularity",
        ]
        assert "20,001 items" in str(reasons["ease"])

    def test_every_baseline_of_the_settings_is_there(self) -> None:
        assert tuple(ANSWERS) == BASELINES


def shared_tasks(folder: Path, *, sparse_regime: bool) -> tuple[TrainingData, list[EvaluationTask]]:
    """The final snapshot of a data set whose splits come with it, straight from its two files."""
    log, items = pd.read_parquet(folder / "interactions.parquet"), pd.read_parquet(folder / "items.parquet")
    user_ids = np.unique(log.user_id.astype(str).to_numpy().astype(str))
    users = np.searchsorted(user_ids, log.user_id.astype(str).to_numpy().astype(str))
    columns = log.item_id.map({item: position for position, item in enumerate(items.item_id)}).to_numpy()
    shape = (len(user_ids), len(items))

    def matrix(rows: pd.Series) -> sparse.csr_matrix:
        chosen = rows.to_numpy()
        return sparse.csr_matrix((np.ones(chosen.sum(), np.float32), (users[chosen], columns[chosen])), shape=shape)

    seen, cold = matrix(log.split.isin(["train", "valid"])), items.zero_shot.to_numpy()
    texts = items.drop(columns=["item_id", "zero_shot"]).astype(str).agg(" ".join, axis=1).tolist()
    item_ids = items.item_id.astype(str).to_numpy().astype(str)
    known = matrix(log.in_sparse_train) if sparse_regime else seen
    return TrainingData("final", user_ids, item_ids, known, texts), [
        EvaluationTask("final", "full_shot", matrix(log.split == "test"), seen, ~cold),
        EvaluationTask(
            "final", "zero_shot", matrix(log.split == "zero_shot"), sparse.csr_matrix(shape, dtype=np.float32), cold
        ),
    ]


@pytest.mark.shared_data
class TestThePublishedFigures:
    @pytest.mark.parametrize("regime", ["dense", "sparse"])
    def test_of_ml_100k_are_met_to_a_thousandth(self, shared_data: Path, regime: str) -> None:
        data, tasks = shared_tasks(shared_data / "ml-100k", sparse_regime=regime == "sparse")
        checked = 0
        for task in tasks:
            for name, expected in baseline_rows("ml-100k", regime, task.setting).items():
                if name == "random":  # another generator, another draw
                    continue
                scorer = (
                    strongest_predicted_popularity(data, task, tasks[0].candidates)[0]
                    if name == "predicted_popularity"
                    else fit_baseline(name, data, 1, available=tasks[0].candidates)
                )
                values = metrics_per_user(truth_ranks(rank(scorer, task, 40), task), task, (20, 40))
                ours = [values[metric, k].mean() for k in (20, 40) for metric in ("recall", "ndcg")]
                assert ours == pytest.approx(expected, abs=1e-3), (name, task.setting)
                checked += 1
        assert checked == 7
