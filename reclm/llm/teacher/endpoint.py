"""Ask an OpenAI-compatible endpoint to be the teacher.

In: the warehouse's facts. Out: profiles and their cost. RecLM asks ChatGPT in this way (arXiv 2412.19302, section 3.2):
first about users, from their histories, then about warm items, from their texts and the interests of their audiences.
Only snapshot `select` is described, because the language model learns from nothing else. Finished answers are kept in
shards, so an interrupted run pays for no answer twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclm.dataset import ENTITY_KINDS
from reclm.llm.engines.answers import generate
from reclm.llm.prompts.messages import MAX_TEXT, audience_request, estimated_tokens, fit_to_budget, has_no_facts
from reclm.llm.prompts.requests import Request, prompt_hash
from reclm.llm.teacher.entries import TeacherProfile, sample_ids
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
"""Expected tokens of an answer, for the estimate of the cost."""


def user_requests(settings: Settings, connection: DuckDBPyConnection) -> dict[str, Request]:
    """Return {user_id: prompt} for the users that the endpoint is to describe."""
    from reclm.llm.prompts.facts import load_user_facts

    facts = {user: known for user, known in load_user_facts(connection, "select").items() if not has_no_facts(known)}
    shape = endpoint_shape(settings)
    sample = sample_ids(settings, "user", facts)
    return {
        user: Request("user", fit_to_budget(known, shape, estimated_tokens)[0])
        for user, known in facts.items()
        if user in sample
    }


def item_requests(
    settings: Settings, connection: DuckDBPyConnection, interests: Mapping[str, str]
) -> dict[str, Request]:
    """Return {item_id: prompt} for the warm items to describe; `interests` maps user ids to interests."""
    rows = connection.execute(
        """
        select item_id, line, text, json_extract_string(audience, '$[*].user_id')
        from fct_item_prompts
        where snapshot = 'select' and n_audience > 0
        order by item_id
        """
    ).fetchall()
    sample = sample_ids(settings, "item", [row[0] for row in rows])
    requests = {}
    for item, line, text, audience in rows:
        if item in sample:
            of_audience = [interests[user] for user in audience if interests.get(user)]
            requests[item] = Request("item", audience_request(line, text, of_audience[:AUDIENCE_SHOWN]))
    return requests


def write_profiles(
    settings: Settings, connection: DuckDBPyConnection, folder: Path
) -> tuple[list[TeacherProfile], dict[str, Any]]:
    """Ask the endpoint about users, then about items; return the profiles and what they cost. Raises ModelError."""
    from reclm.llm.engines.openai import OpenAIEngine

    as_of = dict(connection.execute("select snapshot, as_of from int_snapshots").fetchall())["select"]
    profiles: list[TeacherProfile] = []
    report_estimate(settings, connection, "about to ask")
    engine = OpenAIEngine(settings)
    try:
        for kind in ENTITY_KINDS:
            if kind == "user":
                requests = user_requests(settings, connection)
            else:
                requests = item_requests(settings, connection, _interests(profiles))
            rows = generate(settings, engine, list(requests.values()), folder / f"{kind}s")
            for entity_id, request in requests.items():
                row = rows[prompt_hash(request.messages)]
                profiles.append(TeacherProfile(kind, "select", as_of, entity_id, normalised(row.text), answer=row))
        metrics = {**engine.usage(), "cost": round(engine.cost(), 4)}
    finally:
        engine.close()
    say(f"the endpoint answered {metrics['requests']:,} requests: {metrics['prompt_tokens']:,} tokens in, "
        f"{metrics['answer_tokens']:,} out, cost {metrics['cost']}")  # fmt: skip
    return profiles, metrics


def _interests(profiles: Iterable[TeacherProfile]) -> dict[str, str]:
    parsed = {one.entity_id: grammar.parse(one.text).profile for one in profiles if one.kind == "user"}
    return {user: ", ".join(profile.interests) for user, profile in parsed.items() if profile is not None}


def report_estimate(settings: Settings, connection: DuckDBPyConnection, verb: str) -> None:
    """Print how many requests and tokens the endpoint will be sent and what they will cost, before any is sent."""
    audience_tokens = AUDIENCE_SHOWN * MAX_TEXT // 4
    users, items = user_requests(settings, connection), item_requests(settings, connection, {})
    tokens = sum(estimated_tokens(one.messages) for one in (*users.values(), *items.values()))
    tokens += audience_tokens * len(items)
    prices = settings.openai
    answers = (prices.max_tokens or ANSWER_TOKENS) * (len(users) + len(items))  # one that reasons may need them all
    cost = (tokens * prices.price_in + answers * prices.price_out) / 1e6
    say(
        f"{verb} {prices.base_url} about {len(users):,} users and {len(items):,} items: some {tokens:,} tokens in, "
        f"{answers:,} out, cost {cost:.2f}"
    )
