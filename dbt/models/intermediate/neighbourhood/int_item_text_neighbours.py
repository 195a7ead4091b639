"""Find the warm items with the texts most similar to each item's text, by TF-IDF cosine.

Item texts and the warm items of each snapshot come in, neighbours go out. The vocabulary and its weights come from the
warm items of the same snapshot alone, so later items do not change them. Warm and cold items have neighbours; no item
is its own neighbour. Similarities are sparse; they are computed for a block of items and cut to the top of each row.
A build that only adds items (macros/delivery.sql) writes the rows of these alone.
"""

import os

import numpy as np
import pandas as pd
import pyarrow as pa

from reclm.text.tfidf import smoothed_tfidf

BLOCK = 1024
SCHEMA = pa.schema(
    [
        ("snapshot", pa.string()),
        ("item_id", pa.string()),
        ("neighbour_id", pa.string()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
    ]
)
"""DuckDB would type the columns of an empty pandas frame NULL, which no contract accepts."""


def top_of_block(similarities, top_k):
    """Yield (row, columns, scores) of the top_k largest entries of each CSR row; ties go to the lower column."""
    for row in range(similarities.shape[0]):
        start, end = similarities.indptr[row : row + 2]
        columns, scores = similarities.indices[start:end], similarities.data[start:end].round(6)
        if len(scores) > 4 * top_k:
            top = scores >= np.partition(scores, -top_k)[-top_k]
            columns, scores = columns[top], scores[top]
        order = np.lexsort((columns, -scores))[:top_k]
        order = order[scores[order] > 0]
        yield row, columns[order], scores[order]


def neighbours_of(snapshot, items, top_k):
    """Return the rows of one snapshot. `items` has item_id, full_text, is_warm, is_wanted, in item_index order."""
    warm, queries = items[items["is_warm"]], items[items["is_wanted"] & (items["full_text"] != "")]
    vectors = smoothed_tfidf(warm["full_text"], queries["full_text"]) if len(warm) and len(queries) else None
    if vectors is None:
        return []
    warm_vectors, query_vectors = vectors
    warm_ids, query_ids = warm["item_id"].to_numpy(), queries["item_id"].to_numpy()
    transposed = warm_vectors.T.tocsr()
    parts = []
    for start in range(0, len(query_ids), BLOCK):
        block = (query_vectors[start : start + BLOCK] @ transposed).tocsr()
        for row, columns, scores in top_of_block(block, top_k + 1):
            item_id = query_ids[start + row]
            others = np.flatnonzero(warm_ids[columns] != item_id)[:top_k]
            parts.append((item_id, warm_ids[columns[others]], scores[others].astype(np.float64)))
    lengths = [len(scores) for _, _, scores in parts]
    return [
        pd.DataFrame(
            {
                "snapshot": snapshot,
                "item_id": np.repeat(np.array([item_id for item_id, _, _ in parts], dtype=object), lengths),
                "neighbour_id": np.concatenate([ids for _, ids, _ in parts]),
                "score": np.concatenate([scores for _, _, scores in parts]),
                "rank": np.concatenate([np.arange(1, length + 1) for length in lengths]),
            }
        )
    ]


def model(dbt, session):
    dbt.config(materialized="table", tags=["items"])
    parameters = dbt.ref("stg_parameters")
    status = dbt.ref("int_item_status")
    items = dbt.ref("int_catalogue")
    delivered = dbt.ref("stg_delivered_items")
    is_delivery, delivered_ids = os.environ.get("RECLM_DELIVERY") == "1", delivered.df()["item_id"].tolist()
    top_k = int(parameters.df().iloc[0]["neighbours"])
    texts = items.project("item_id, item_index, coalesce(full_text, '') as full_text")
    frame = status.set_alias("s").join(texts.set_alias("i"), "s.item_id = i.item_id")
    frame = (
        frame.project("snapshot, i.item_id as item_id, item_index, full_text, is_warm")
        .order("snapshot, item_index")
        .df()
    )
    frame["is_wanted"] = frame["item_id"].isin(delivered_ids) if is_delivery else True
    parts = [
        part
        for snapshot, rows in frame.groupby("snapshot", sort=True)
        for part in neighbours_of(snapshot, rows, top_k)
        if len(part)
    ]
    found = SCHEMA.empty_table()
    if parts:
        found = pa.Table.from_pandas(pd.concat(parts, ignore_index=True), SCHEMA, preserve_index=False)
    if not is_delivery:
        return found
    columns = ", ".join(SCHEMA.names)
    others = f"select {columns} from {dbt.this} where item_id not in (select unnest($items))"
    return session.sql(others, params={"items": delivered_ids}).union(session.from_arrow(found))
