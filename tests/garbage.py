"""A log of which a known share is garbage of six kinds, for tests of what is set apart and why.

Kinds are named by the quarantine's reasons, but for `repeat`, a row that landed before. Good rows are distinct by their
second, so every other row is garbage for one reason only.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

KINDS = ("missing_user_id", "missing_item_id", "bad_timestamp", "future_event", "unknown_item", "repeat")
FIRST_SECOND = 1_735_689_600  # 2025-01-01T00:00:00Z
WRITE_ROW = """
    select
        case when kind = 0 then null else 'user ' || u end as user_id,
        case when kind = 1 then null when kind = 4 then 'nowhere ' || i else 'item ' || i end as item_id,
        case
            when kind = 2 then 'around noon, ' || i
            when kind = 3 then '2999-01-01T00:00:00Z'
            else strftime(make_timestamp(second * 1000000), '%Y-%m-%dT%H:%M:%SZ')
        end as event_ts
    from rows
"""


def write_garbage_log(
    folder: Path,
    n_rows: int = 1_000_000,
    share: float = 0.05,
    n_users: int = 20_000,
    n_items: int = 2_000,
    seed: int = 7,
) -> dict[str, int]:
    """Write `interactions.csv` (n_rows rows, a `share` of garbage) and `items.csv`; return rows by kind and `good`."""
    rng = np.random.default_rng(seed)
    n_each = int(n_rows * share / len(KINDS))
    n_good = n_rows - n_each * len(KINDS)
    kind = np.concatenate([np.full(n_good, -1), np.repeat(np.arange(len(KINDS)), n_each)])
    user, item = rng.integers(0, n_users, n_rows), rng.integers(0, n_items, n_rows)
    at = FIRST_SECOND + np.arange(n_rows)
    copied = rng.choice(n_good, n_each, replace=False)
    for column in (user, item, at):
        column[kind == KINDS.index("repeat")] = column[copied]
    order = rng.permutation(n_rows)
    rows = pa.table({"kind": kind[order], "u": user[order], "i": item[order], "second": at[order]})
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as con:
        con.register("rows", rows)
        con.execute(f"copy ({WRITE_ROW}) to '{folder / 'interactions.csv'}' (header)").fetchall()
        items = "select 'item ' || range as item_id, 'Thing ' || range as title, 'a plain thing' as text"
        con.execute(f"copy ({items} from range({n_items})) to '{folder / 'items.csv'}' (header)").fetchall()
    return {"good": n_good} | dict.fromkeys(KINDS, n_each)
