"""Tell why item ids of the log and of the item table do not meet.

In: a database in which staging is built. Out: one pair of ids and what differs, or the item whose text holds an id of
the log. Spreadsheets and data frames cut leading zeros and write whole numbers as floats; exports pad with blanks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SPELLINGS = {
    "leading zeros differ": r"ltrim({}, '0')",
    "`.0` at the end differs": r"regexp_replace({}, '\.0+$', '')",
    "blanks differ": r"regexp_replace({}, '\s+', '', 'g')",
    "capital letters differ": "lower({})",
    "zeros, blanks or capitals differ": r"lower(ltrim(regexp_replace({}, '^\s+|\s+$|\.0+\s*$', '', 'g'), '0'))",
}
"""{what differs: SQL of an id without it}, the simplest first."""
COMPARED = 1000
"""Ids of the log that are compared."""
SEARCHED = 20
"""Ids of the log that are searched for in the texts of items."""


def near_match(connection: DuckDBPyConnection) -> str:
    """Return e.g. `log '007', items '7': only leading zeros differ; …`, or '' where nothing is alike."""
    logged = (
        "with logged as (select distinct item_id from base_interactions where reason = 'unknown_item' "
        f"order by item_id limit {COMPARED}), "
        "listed as (select item_id, text from base_items where status = 'accepted') "
    )
    best, words, pair = 0, "", ("", "")
    for name, spelling in SPELLINGS.items():
        own, other = spelling.format("logged.item_id"), spelling.format("listed.item_id")
        ((found, log_id, item_id),) = connection.execute(
            f"{logged} select count(distinct logged.item_id), min(logged.item_id), "
            "arg_min(listed.item_id, logged.item_id) "
            f"from logged inner join listed on {own} = {other} and {own} <> ''"
        ).fetchall()
        if found > best:
            best, words, pair = found, name, (log_id, item_id)
    if best:
        return f"log {pair[0]!r}, items {pair[1]!r}: only {words}; write the ids alike in both files"
    texts = connection.execute(
        f"{logged} select logged.item_id, listed.item_id from (from logged limit {SEARCHED}) as logged "
        "inner join listed on contains(' ' || listed.text || ' ', ' ' || logged.item_id || ' ') "
        "order by all limit 1"
    ).fetchall()
    for log_id, item_id in texts:
        return (
            f"log {log_id!r} stands in the text of item {item_id!r}: another column of the item table holds the ids "
            "of the log; call that one item_id"
        )
    return ""
