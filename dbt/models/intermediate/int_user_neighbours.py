"""Users near each other: in come the known interactions of each snapshot, out go each user's nearest other users.

Users are compared in the factor space of implicit ALS (Hu, Koren, Volinsky 2008), by cosine: user-user counting in SQL
grows with the square of an item's readers, this grows with the log. Exact search below 20,000 users, an inverted file
above. One thread and one seed, so that two builds agree to the last digit.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import faiss
import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

FACTORS = 48
ITERATIONS = 8
REGULARIZATION = 0.05
EXACT_SEARCH_BELOW = 20_000
COLUMNS = {"snapshot": "str", "user_id": "str", "neighbour_id": "str", "score": "float64", "rank": "int64"}


def user_factors(interactions, seed):
    """L2-normalised ALS user factors, float32 (n_users, FACTORS), of a (n_users, n_items) matrix."""
    model = AlternatingLeastSquares(
        factors=FACTORS,
        iterations=ITERATIONS,
        regularization=REGULARIZATION,
        alpha=10.0,
        random_state=seed,
        num_threads=1,
        use_gpu=False,
    )
    with threadpool_limits(1, "blas"):
        model.fit(interactions, show_progress=False)
    factors = np.array(model.user_factors, dtype=np.float32)
    norms = np.linalg.norm(factors, axis=1, keepdims=True)
    return factors / np.where(norms == 0, 1, norms)


def nearest(factors, top_k):
    """Scores and positions, both (n_users, top_k + 1), of the rows with the largest inner product (the row itself among them)."""
    faiss.omp_set_num_threads(1)
    n_users, width = factors.shape
    index = faiss.IndexFlatIP(width)
    if n_users >= EXACT_SEARCH_BELOW:
        n_lists = int(4 * np.sqrt(n_users))
        index = faiss.IndexIVFFlat(index, width, n_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(8, n_lists // 32)
        index.train(factors)
    index.add(factors)
    return index.search(factors, min(top_k + 1, n_users))


def neighbours_of(snapshot, log, top_k, seed):
    """The rows of one snapshot. `log` has one row per known user and item."""
    user_codes, user_ids = pd.factorize(log["user_id"], sort=True)
    item_codes = log["item_index"].to_numpy()
    ones = np.ones(len(log), dtype=np.float32)
    interactions = sparse.csr_matrix((ones, (user_codes, item_codes)), shape=(len(user_ids), item_codes.max() + 1))
    scores, positions = nearest(user_factors(interactions, seed), top_k)
    rows = np.repeat(np.arange(len(user_ids)), positions.shape[1])
    found = pd.DataFrame({"row": rows, "other": positions.ravel(), "score": scores.ravel().astype(np.float64).round(6)})
    found = found[(found["other"] >= 0) & (found["other"] != found["row"])]
    found = found.sort_values(["row", "score", "other"], ascending=[True, False, True], kind="stable")
    found["rank"] = found.groupby("row").cumcount() + 1
    found = found[found["rank"] <= top_k]
    return pd.DataFrame(
        {
            "snapshot": snapshot,
            "user_id": user_ids.to_numpy()[found["row"]],
            "neighbour_id": user_ids.to_numpy()[found["other"]],
            "score": found["score"].to_numpy(),
            "rank": found["rank"].to_numpy(),
        }
    )


def model(dbt, session):
    dbt.config(materialized="table")
    parameters = dbt.ref("stg_parameters")
    known = dbt.ref("fct_known_interactions")
    items = dbt.ref("dim_items")
    settings = parameters.df().iloc[0]
    log = known.set_alias("k").join(items.set_alias("i"), "k.item_id = i.item_id")
    log = log.project("snapshot, user_id, item_index").order("snapshot, user_id, item_index").df()
    parts = [
        neighbours_of(snapshot, rows, int(settings["neighbours"]), int(settings["seed"]))
        for snapshot, rows in log.groupby("snapshot", sort=True)
        if rows["user_id"].nunique() > 1
    ]
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    return pd.concat(parts, ignore_index=True) if parts else empty
