"""A teacher behind an OpenAI-compatible endpoint: the warehouse's facts come in, its answers and their cost go out.

RecLM asks ChatGPT so (arXiv 2412.19302, section 3.2): first about users, from their histories, then about warm items, from
their texts and the interests of their audiences. Only snapshot `select` is asked about, which is all that the language
model learns from. Finished answers stand in shards, so that an interrupted run pays for none twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.llm.engines.answers import generate
from reclm.llm.prompts.messages import MAX_TEXT, audience_request, estimated_tokens, fit_to_budget, has_no_facts
from reclm.llm.prompts.requests import Request, prompt_hash
from reclm.llm.teacher.entries import KINDS, TeacherProfile, sample_ids
from reclm.llm.teacher.parameters import endpoint_shape
from reclm.llm.teacher.table import normalised
from reclm.profiles import grammar
from reclm.progress import say

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from reclm.settings.tree import Settings

AUDIENCE_SHOWN = 8
"""Members of an item's audience whose interests the endpoint is shown."""
ANSWER_TOKENS = 48
"""Tokens of an answer, for the estimate before anything is asked."""


def user_requests(settings: Settings, connection: DuckDBPyConnection) -> dict[str, Request]:
    """{user_id: prompt} of the users that the endpoint is asked about."""
    from reclm.llm.prompts.facts import load_user_facts

    facts = {user: known for user, known in load_user_facts(connection, "select").items() if not has_no_facts(known)}
    shape = endpoint_shape(settings)
    chosen = sample_ids(settings, "user", facts)
    return {
        user: Request("user", fit_to_budget(known, shape, estimated_tokens)[0])
        for user, known in facts.items()
        if user in chosen
    }


def item_requests(
    settings: Settings, connection: DuckDBPyConnection, interests: Mapping[str, str]
) -> dict[str, Request]:
    """{item_id: prompt} of the warm items asked about; `interests` are those of users, for the audiences."""
    rows = connection.execute(
        """
        select item_id, line, text, json_extract_string(audience, '$[*].user_id')
        from fct_item_prompts
        where snapshot = 'select' and n_audience > 0
        order by item_id
        """
    ).fetchall()
    chosen = sample_ids(settings, "item", [row[0] for row in rows])
    found = {}
    for item, line, text, audience in rows:
        if item in chosen:
            told = [interests[user] for user in audience if interests.get(user)]
            found[item] = Request("item", audience_request(line, text, told[:AUDIENCE_SHOWN]))
    return found


def write_entries(
    settings: Settings, connection: DuckDBPyConnection, folder: Path
) -> tuple[list[TeacherProfile], dict[str, Any]]:
    from reclm.llm.engines.openai import OpenAIEngine

    as_of = dict(connection.execute("select snapshot, as_of from int_snapshots").fetchall())["select"]
    entries: list[TeacherProfile] = []
    report_estimate(settings, connection, "about to ask")
    engine = OpenAIEngine(settings)
    try:
        for kind in KINDS:
            if kind == "user":
                asked = user_requests(settings, connection)
            else:
                asked = item_requests(settings, connection, _interests(entries))
            rows = generate(settings, engine, list(asked.values()), folder / f"{kind}s")
            answers = {entity: rows[prompt_hash(request.messages)] for entity, request in asked.items()}
            entries += [
                TeacherProfile(kind, "select", as_of, entity, normalised(row.text), row=row)
                for entity, row in answers.items()
            ]
        metrics = {**engine.usage(), "cost": round(engine.cost(), 4)}
    finally:
        engine.close()
    say(f"the endpoint was asked {metrics['requests']:,} times: {metrics['prompt_tokens']:,} tokens in, "
        f"{metrics['answer_tokens']:,} out, cost {metrics['cost']}")  # fmt: skip
    return entries, metrics


def _interests(entries: Iterable[TeacherProfile]) -> dict[str, str]:
    parsed = {entry.entity_id: grammar.parse(entry.profile).profile for entry in entries if entry.kind == "user"}
    return {user: ", ".join(profile.interests) for user, profile in parsed.items() if profile is not None}


def report_estimate(settings: Settings, connection: DuckDBPyConnection, verb: str) -> None:
    """Says how many requests, tokens and what cost the endpoint means, before any is sent."""
    people = AUDIENCE_SHOWN * MAX_TEXT // 4
    users, items = user_requests(settings, connection), item_requests(settings, connection, {})
    tokens = sum(estimated_tokens(one.messages) for one in (*users.values(), *items.values())) + people * len(items)
    answers, endpoint = ANSWER_TOKENS * (len(users) + len(items)), settings.openai
    cost = (tokens * endpoint.price_in + answers * endpoint.price_out) / 1e6
    say(
        f"{verb} {endpoint.base_url} about {len(users):,} users and {len(items):,} items: some {tokens:,} tokens in, "
        f"{answers:,} out, cost {cost:.2f}"
    )
