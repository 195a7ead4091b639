"""Load facts for prompts.

In: rows of the prompt and dialogue marts. Out: dataclasses from which prompts are written. Four marts are read:
`fct_user_prompts`, `fct_item_prompts`, `fct_user_dialogues` and `fct_item_dialogues`. Their texts are data from a log;
only `reclm.llm.prompts.messages` turns them into words of a prompt. The warehouse does not hold the interests of an
item's audience: the caller passes a function that returns them, and so decides what a prompt may show of the teacher's
profiles of held-out items.
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
_USER_NEIGHBOURS = """from_json(neighbours, '[{"user_id": "VARCHAR", "items": [{"line": "VARCHAR"}]}]') as neighbours"""
_ITEM_NEIGHBOURS = """from_json(neighbours, '[{"item_id": "VARCHAR", "line": "VARCHAR"}]') as neighbours"""
_HISTORY, _UNMASKED, _QUESTION = map(_LINES.format, ("history", "unmasked_history", "question"))


def load_user_facts(connection: DuckDBPyConnection, snapshot: Snapshot) -> dict[str, UserFacts]:
    """Return {user_id: what is known of the user at `snapshot`} for every user, sorted by id."""
    rows = _rows(
        connection,
        f"select user_id, {_HISTORY}, {_USER_NEIGHBOURS} from fct_user_prompts where snapshot = $1 order by user_id",
        [snapshot],
    )
    return {row["user_id"]: UserFacts(tuple(row["history"]), _histories(row["neighbours"])) for row in rows}


def load_item_facts(connection: DuckDBPyConnection, snapshot: Snapshot, interests: Interests) -> dict[str, ItemFacts]:
    """Return {item_id: what its text says at `snapshot`} for every item, sorted by id.

    `interests` maps the id of a warm neighbour to the interests of its audience, '' where they are unknown.
    """
    rows = _rows(
        connection,
        f"select item_id, line, text, {_ITEM_NEIGHBOURS} from fct_item_prompts where snapshot = $1 order by item_id",
        [snapshot],
    )
    return {row["item_id"]: _item_facts(row, interests) for row in rows}


def load_dialogues(connection: DuckDBPyConnection, interests: Interests) -> list[Dialogue]:
    """Return all dialogues of both folds, first about users, then about items, each sorted by id and view.

    `interests` maps the id of a warm neighbour to the interests of its audience, '' where they are unknown.
    """
    users = _rows(
        connection,
        f"""
        select * replace ({_HISTORY}, {_UNMASKED}, {_USER_NEIGHBOURS})
        from fct_user_dialogues
        order by user_id, view
        """,
    )
    served = load_user_facts(connection, "select")
    items = _rows(
        connection,
        f"""
        select dialogues.* replace ({_ITEM_NEIGHBOURS}, {_QUESTION}), coalesce(picked.known, []) as known
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
    neighbours = tuple((neighbour["line"], interests(neighbour["item_id"])) for neighbour in row["neighbours"])
    return ItemFacts(row["line"], row["text"], neighbours)


def _user_dialogue(row: dict[str, Any], served: UserFacts) -> Dialogue:
    neighbours = _histories(row["neighbours"])
    return Dialogue(
        dialogue_id=row["dialogue_id"],
        kind="user",
        entity_id=row["user_id"],
        view=row["view"],
        fold=row["fold"],
        facts=UserFacts(tuple(row["history"]), neighbours),
        unmasked=UserFacts(tuple(row["unmasked_history"]), neighbours),
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
