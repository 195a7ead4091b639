"""The explorer: pages for people who want to see what the service would say and why. Server-rendered, without scripts.

Whatever is shown was written by somebody else, a shop, a language model or a visitor, and is escaped by the template
engine; there is no way around it (no `safe` filter, no markup in values).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reclm.profiles import grammar
from reclm.serving import warehouse_records as records
from reclm.serving.recommender import RankingRequest, describe_item, describe_model, interests_of, rank_and_explain

if TYPE_CHECKING:
    from reclm.features.online import UserFeatures
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.serving.service import Service

TEMPLATES = Path(__file__).parent / "templates"
K, FOUND, CHOSEN, MOST = 10, 20, 50, 500
Text = Annotated[str, Query(max_length=MOST)]


def environment() -> Environment:
    """The templates, escaping everything; a name that is not there is an error, not an empty place."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["url"] = lambda path, **query: f"{path}?{urlencode(query, doseq=True)}"
    made.filters["day"] = lambda value: "" if value is None else str(value)[:10]
    return made


def add(app: FastAPI, service: Service) -> None:
    """Adds the pages to the application; they are no part of its OpenAPI."""
    templates = environment()
    style = (TEMPLATES / "style.css").read_text()

    def page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
        about = {"model": describe_model(service.reloader.index), "problems": service.problems()}
        return HTMLResponse(templates.get_template(name).render(**about, **values), status_code=status)

    def missing(what: str, shown: str) -> HTMLResponse:
        return page("missing.html", 404, what=what, shown=shown[:MOST])

    @app.get("/style.css", include_in_schema=False)
    async def stylesheet() -> Response:
        return Response(style, media_type="text/css", headers={"cache-control": "max-age=3600"})

    @app.get("/", include_in_schema=False)
    async def home(q: Text = "") -> HTMLResponse:
        index = service.reloader.index
        found = await asyncio.to_thread(search, service, index, q) if q.strip() else None
        standing = await asyncio.to_thread(records.standing, service.settings)
        return page("home.html", q=q, found=found, standing=standing, samples=samples(index), index=about(index))

    @app.get("/user", include_in_schema=False)
    async def user(id: Text) -> HTMLResponse:
        index = service.reloader.index
        features, away = await service.recommender.features(index, id)
        if index.user(id) is None and features is None and not away:
            return missing("user", id)
        record = await asyncio.to_thread(records.user, service.settings, id)
        lists = await asyncio.to_thread(side_by_side, index, id, features, away)
        return page(
            "user.html", user_id=id, features=features, profile=phrases(features), record=record, lists=lists, away=away
        )

    @app.get("/item", include_in_schema=False)
    async def item(id: Text) -> HTMLResponse:
        index = service.reloader.index
        position = index.item(id)
        if position is None:
            return missing("item", id)
        record = await asyncio.to_thread(records.item, service.settings, id)
        best, scores = await asyncio.to_thread(index.similar, position, K)
        similar = [
            describe_item(index, one) | {"score": float(score)}
            for one, score in zip(best.tolist(), scores, strict=True)
        ]
        return page(
            "item.html",
            item=describe_item(index, position),
            profile=parsed(index.catalogue.profiles[position]),
            n_users=int(index.counts[position]),
            added=position >= index.trained_items,
            record=record,
            similar=similar,
        )

    @app.get("/try", include_in_schema=False)
    async def new_user(
        item: Annotated[list[str] | None, Query(max_length=CHOSEN)] = None, q: Text = ""
    ) -> HTMLResponse:
        index = service.reloader.index
        liked = [one for one in dict.fromkeys(item or []) if index.item(one) is not None]
        chosen = [describe_item(index, index.item(one) or 0) for one in liked]
        wanted = RankingRequest(history=liked, k=K)
        result = await asyncio.to_thread(rank_and_explain, index, wanted, None, "") if liked else None
        found = await asyncio.to_thread(search, service, index, q) if q.strip() else None
        return page("try.html", liked=liked, chosen=chosen, result=result, q=q, found=found, samples=samples(index))


def about(index: CandidateIndex) -> dict[str, Any]:
    """Figures of the first page."""
    return {
        "users": len(index.backbone.fitted.user_ids),
        "items": len(index.item_ids),
        "cold": int((index.counts == 0).sum()),
        "later": len(index.item_ids) - index.trained_items,
    }


def phrases(features: UserFeatures | None) -> dict[str, Any] | None:
    """The published profile in parts; None where there is none."""
    if features is None or features.profile is None:
        return None
    made = features.profile
    return parsed(made.text) | {"engine": made.engine, "flag": made.flag, "as_of": made.as_of}


def parsed(text: str) -> dict[str, Any]:
    """A profile's text as chips; where it breaks the grammar only the text."""
    profile = grammar.parse(text).profile
    return {
        "text": text,
        "identity": profile.identity if profile else (),
        "interests": interests_of(text),
    }


def side_by_side(index: CandidateIndex, user_id: str, features: UserFeatures | None, away: str) -> list[dict[str, Any]]:
    """What the champion recommends and, where it was trained too, what the same model without profiles would."""
    lists = [
        {
            "name": index.pointer["variant"],
            **rank_and_explain(index, RankingRequest(user_id=user_id, k=K), features, away),
        }
    ]
    bare = index.without_profiles
    if bare is not None and bare.user(user_id) is not None:
        lists.append({"name": "base", **rank_and_explain(bare, RankingRequest(user_id=user_id, k=K), None, "")})
    theirs = [{one["item_id"] for one in each["items"]} for each in lists]
    for at, each in enumerate(lists):
        others = set().union(*(ids for place, ids in enumerate(theirs) if place != at))
        for one in each["items"]:
            one["only_here"] = len(lists) > 1 and one["item_id"] not in others
    return lists


def samples(index: CandidateIndex) -> dict[str, list[Any]]:
    """Somebody and something to begin with."""
    users, items = index.examples
    return {
        "users": [{"user_id": str(index.backbone.fitted.user_ids[one]), "n": len(index.known(one))} for one in users],
        "items": [describe_item(index, one) for one in items],
    }


def search(service: Service, index: CandidateIndex, text: str) -> dict[str, Any]:
    """Users whose id begins so, items whose title or id holds the words, and items near in meaning."""
    wanted = text.strip()
    ids = index.backbone.fitted.user_ids
    order = index.sorted_user_ids
    start = bisect_left(order, wanted)
    users = [one for one in order[start : start + FOUND] if one.startswith(wanted)]
    low = wanted.casefold()
    named = [
        row
        for row, (item, title) in enumerate(zip(index.item_ids.tolist(), index.catalogue.titles, strict=True))
        if low in title.casefold() or item == wanted
    ][:FOUND]
    near: list[int] = []
    if service.search.ready:
        near = [row for row in service.search.find(index, wanted, K)[0].tolist() if row not in named]
    return {
        "users": users,
        "items": [describe_item(index, row) for row in named],
        "near": [describe_item(index, row) for row in near],
        "of": len(ids),
    }
