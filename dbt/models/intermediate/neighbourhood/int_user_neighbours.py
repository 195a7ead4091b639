"""Find the nearest other users of each user, by the factors of implicit ALS (Hu, Koren, Volinsky 2008).

The known interactions of each snapshot come in, neighbours by cosine go out. The cost grows with the number of
interactions; counting shared items in SQL would grow with the square of an item's users. A dialogue shows fewer items
of a user than are known; its neighbours are those of a user with these items alone, folded into the same factors.
Search is exact below 20,000 users and uses an inverted file above. One thread and one seed make two builds equal to the
last digit.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
from implicit.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

FACTORS = 48
ITERATIONS = 8
REGULARIZATION = 0.05
EXACT_SEARCH_BELOW = 20_000
SCHEMA = pa.schema(
    [
        ("snapshot", pa.string()),
        ("user_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("neighbour_id", pa.string()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
    ]
)
"""DuckDB would type the columns of an empty pandas frame NULL, which no contract accepts."""


def unit(factors):
    """Return the rows of `factors` as float32, L2-normalised; a row of zeros stays."""
    factors = np.array(factors, dtype=np.float32)
    norms = np.linalg.norm(factors, axis=1, keepdims=True)
    return factors / np.where(norms == 0, 1, norms)


def fitted(interactions, seed):
    """Return the ALS model of a (n_users, n_items) matrix."""
    model = AlternatingLeastSquares(
        factors=FACTORS,
        iterations=ITERATIONS,
        regularization=REGULARIZATION,
        alpha=10.0,
        random_state=seed,
        num_threads=1,
        use_gpu=False,
    )
    model.fit(interactions, show_progress=False)
    return model


def index_of(factors):
    """Return an inner-product index over the rows of `factors`."""
    faiss.omp_set_num_threads(1)
    n_users, width = factors.shape
    index = faiss.IndexFlatIP(width)
    if n_users >= EXACT_SEARCH_BELOW:
        n_lists = int(4 * np.sqrt(n_users))
        index = faiss.IndexIVFFlat(index, width, n_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(8, n_lists // 32)
        index.train(factors)
    index.add(factors)
    return index


def nearest_others(index, queries, own, top_k):
    """Return rows (query, other, score, rank): the `top_k` nearest positions of each query without `own[query]`."""
    scores, positions = index.search(queries, min(top_k + 1, index.ntotal))
    query = np.repeat(np.arange(len(queries)), positions.shape[1])
    found = pd.DataFrame(
        {"query": query, "other": positions.ravel(), "score": scores.ravel().astype(np.float64).round(6)}
    )
    found = found[(found["other"] >= 0) & (found["other"] != own[query])]
    found = found.sort_values(["query", "score", "other"], ascending=[True, False, True], kind="stable")
    found["rank"] = found.groupby("query").cumcount() + 1
    return found[found["rank"] <= top_k]


def matrix(rows, columns, shape):
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)


def neighbours_of(snapshot, log, views, settings):
    """Return the rows of one snapshot: neighbours of users by all their known items, then neighbours of dialogues.

    `log` has one row per known user and item, `views` one row per dialogue and item that it may show.
    """
    user_codes, user_ids = pd.factorize(log["user_id"], sort=True)
    n_items = log["item_index"].max() + 1
    dialogue_codes, dialogue_ids = pd.factorize(views["dialogue_id"], sort=True)
    viewers = views.groupby("dialogue_id", sort=True)["user_id"].first()
    with threadpool_limits(1, "blas"):
        model = fitted(matrix(user_codes, log["item_index"].to_numpy(), (len(user_ids), n_items)), settings["seed"])
        index = index_of(unit(model.user_factors))
        served = nearest_others(index, unit(model.user_factors), np.arange(len(user_ids)), settings["neighbours"])
        parts = [(served, user_ids.to_numpy(), np.full(len(user_ids), "", dtype=object))]
        if len(dialogue_ids):
            known = matrix(dialogue_codes, views["item_index"].to_numpy(), (len(dialogue_ids), n_items))
            folded = unit(model.recalculate_user(np.arange(len(dialogue_ids)), known))
            around = nearest_others(index, folded, user_ids.get_indexer(viewers), settings["neighbours"])
            parts.append((around, viewers.to_numpy(), dialogue_ids.to_numpy()))
    return [
        pd.DataFrame(
            {
                "snapshot": snapshot,
                "user_id": users[found["query"]],
                "dialogue_id": dialogues[found["query"]],
                "neighbour_id": user_ids.to_numpy()[found["other"]],
                "score": found["score"].to_numpy(),
                "rank": found["rank"].to_numpy(),
            }
        )
        for found, users, dialogues in parts
    ]


def model(dbt, session):
    dbt.config(materialized="table")
    parameters = dbt.ref("stg_parameters")
    known = dbt.ref("int_known_interactions")
    items = dbt.ref("int_catalogue")
    views = dbt.ref("int_user_dialogue_views")
    row = parameters.df().iloc[0]
    settings = {name: int(row[name]) for name in ("neighbours", "seed")}
    log = known.set_alias("k").join(items.set_alias("i"), "k.item_id = i.item_id")
    log = log.project("snapshot, user_id, item_index").order("snapshot, user_id, item_index").df()
    seen = views.filter("is_folded").project("snapshot, dialogue_id, user_id, unnest(known_items) as item_id")
    seen = seen.set_alias("v").join(items.set_alias("i"), "v.item_id = i.item_id")
    seen = seen.project("snapshot, dialogue_id, user_id, item_index").order("dialogue_id, item_index").df()
    parts = [
        part
        for snapshot, rows in log.groupby("snapshot", sort=True)
        if rows["user_id"].nunique() > 1
        for part in neighbours_of(snapshot, rows, seen[seen["snapshot"] == snapshot], settings)
    ]
    if not parts:
        return SCHEMA.empty_table()
    return pa.Table.from_pandas(pd.concat(parts, ignore_index=True), SCHEMA, preserve_index=False)
