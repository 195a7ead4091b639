"""Facts out of the warehouse: prompt and dialogue marts come in, the dataclasses that prompts are written from go out.

Four marts are read, `fct_user_prompts`, `fct_item_prompts`, `fct_user_dialogues` and `fct_item_dialogues`; what they
hold of texts is data from a log, and only `reclm.llm.prompts.messages` turns it into words of a prompt. The interests of an item's audience are
not in the warehouse: the caller looks them up, so that a teacher's word about held-out entities stays the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reclm.dataset import Snapshot
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import ItemFacts, UserFacts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Interests = Callable[[str], str]

_LINES = "json_extract_string({0}, '$[*].line') as {0}"
_USERS_AROUND = """from_json(neighbours, '[{"user_id": "VARCHAR", "items": [{"line": "VARCHAR"}]}]') as neighbours"""
_ITEMS_AROUND = """from_json(neighbours, '[{"item_id": "VARCHAR", "line": "VARCHAR"}]') as neighbours"""
_HISTORY, _UNMASKED, _QUESTION = map(_LINES.format, ("history", "unmasked_history", "question"))


def load_user_facts(connection: DuckDBPyConnection, snapshot: Snapshot) -> dict[str, UserFacts]:
    """{user_id: what is known of them at `snapshot`}, every user of the warehouse, in order of ids."""
    rows = _rows(
        connection,
        f"select user_id, {_HISTORY}, {_USERS_AROUND} from fct_user_prompts where snapshot = $1 order by user_id",
        [snapshot],
    )
    return {row["user_id"]: UserFacts(tuple(row["history"]), _histories(row["neighbours"])) for row in rows}


def load_item_facts(connection: DuckDBPyConnection, snapshot: Snapshot, interests: Interests) -> dict[str, ItemFacts]:
    """{item_id: what its text tells at `snapshot`}, every item of the warehouse, in order of ids.

    `interests` maps the id of a warm neighbour to the interests of its audience, '' where nobody has told them.
    """
    rows = _rows(
        connection,
        f"select item_id, line, text, {_ITEMS_AROUND} from fct_item_prompts where snapshot = $1 order by item_id",
        [snapshot],
    )
    return {row["item_id"]: _item_facts(row, interests) for row in rows}


def load_dialogues(connection: DuckDBPyConnection, interests: Interests) -> list[Dialogue]:
    """Every dialogue of both folds: those about users by user and view, then those about items; `interests` as above."""
    users = _rows(
        connection,
        f"""
        select * replace ({_HISTORY}, {_UNMASKED}, {_USERS_AROUND})
        from fct_user_dialogues
        order by user_id, view
        """,
    )
    served = load_user_facts(connection, "select")
    items = _rows(
        connection,
        f"""
        select dialogues.* replace ({_ITEMS_AROUND}, {_QUESTION}), coalesce(picked.known, []) as known
        from fct_item_dialogues as dialogues
        left join (
            select neighbours.snapshot, neighbours.item_id, list(cards.line order by neighbours.rank) as known
            from fct_item_neighbours as neighbours
            join int_item_cards as cards on cards.item_id = neighbours.neighbour_id
            where neighbours.source = 'co_occurrence'
            group by all
        ) as picked using (snapshot, item_id)
        order by item_id, view
        """,
    )
    return [
        *(_user_dialogue(row, served[row["user_id"]]) for row in users),
        *(_item_dialogue(row, interests) for row in items),
    ]


def _rows(connection: DuckDBPyConnection, query: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
    found = connection.execute(query, parameters)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _histories(neighbours: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(item["line"] for item in neighbour["items"]) for neighbour in neighbours)


def _item_facts(row: dict[str, Any], interests: Interests) -> ItemFacts:
    around = tuple((neighbour["line"], interests(neighbour["item_id"])) for neighbour in row["neighbours"])
    return ItemFacts(row["line"], row["text"], around)


def _user_dialogue(row: dict[str, Any], served: UserFacts) -> Dialogue:
    around = _histories(row["neighbours"])
    return Dialogue(
        dialogue_id=row["dialogue_id"],
        kind="user",
        entity_id=row["user_id"],
        view=row["view"],
        fold=row["fold"],
        facts=UserFacts(tuple(row["history"]), around),
        unmasked=UserFacts(tuple(row["unmasked_history"]), around),
        served=served,
        question=(row["withheld_line"],) if row["asks"] else (),
        answer=row["answer"],
        withheld_id=row["withheld_item_id"] or "",
        neighbour_ids=tuple(neighbour["user_id"] for neighbour in row["neighbours"]),
        popularity=row["popularity"],
        knn_score=row["knn_score"],
        known=served.history,
        asks=row["asks"],
    )


def _item_dialogue(row: dict[str, Any], interests: Interests) -> Dialogue:
    facts = _item_facts(row, interests)
    return Dialogue(
        dialogue_id=row["dialogue_id"],
        kind="item",
        entity_id=row["item_id"],
        view=row["view"],
        fold=row["fold"],
        facts=facts,
        unmasked=facts,
        served=facts,
        question=tuple(row["question"]),
        answer=row["answer"],
        withheld_id=row["withheld_user_id"],
        neighbour_ids=tuple(neighbour["item_id"] for neighbour in row["neighbours"]),
        popularity=row["popularity"],
        knn_score=row["knn_score"],
        known=tuple(row["known"]),
    )
