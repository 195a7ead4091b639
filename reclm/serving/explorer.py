"""Show users, items, profiles and recommendations with their reasons as web pages: the explorer.

In: a request for a page. Out: HTML. Pages are rendered on the server and use no scripts. All texts come from a shop, a
language model or a visitor, so the template engine escapes every value; no template uses the `safe` filter.
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

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.profiles import grammar
from reclm.serving import warehouse_records
from reclm.serving.filters import RankingRequest
from reclm.serving.recommender import describe_item, describe_model, interests_of, rank_and_explain
from reclm.serving.route_access import needs

if TYPE_CHECKING:
    from reclm.features.online import UserFeatures
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.serving.service import Service

TEMPLATES = Path(__file__).parent / "templates"
LIST_LENGTH, MAX_FOUND, MAX_LIKED_ITEMS = 10, 20, 50
Text = Annotated[str, Query(max_length=MAX_ID_CHARACTERS)]


def template_environment() -> Environment:
    """Return the template engine: it escapes every value, and an undefined name is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["url"] = lambda path, **query: f"{path}?{urlencode(query, doseq=True)}"
    environment.filters["day"] = lambda value: "" if value is None else str(value)[:10]
    return environment


def add_pages(app: FastAPI, service: Service) -> None:
    """Add the pages to the application; they are not part of its OpenAPI document."""
    templates = template_environment()
    style = (TEMPLATES / "style.css").read_text()

    def page(name: str, status_code: int = 200, **values: Any) -> HTMLResponse:
        common = {"model": describe_model(service.reloader.index), "problems": service.problems(details=True)}
        return HTMLResponse(templates.get_template(name).render(**common, **values), status_code=status_code)

    def not_found(kind: str, shown: str) -> HTMLResponse:
        return page("missing.html", 404, kind=kind, shown=shown)

    @app.get("/style.css", include_in_schema=False, openapi_extra=needs("explore"))
    async def stylesheet() -> Response:
        return Response(style, media_type="text/css", headers={"cache-control": "max-age=3600"})

    @app.get("/", include_in_schema=False, openapi_extra=needs("explore"))
    async def home(q: Text = "") -> HTMLResponse:
        index = service.reloader.index
        found = await asyncio.to_thread(find, service, index, q) if q.strip() else None
        status = await asyncio.to_thread(warehouse_records.service_status, service.settings)
        return page(
            "home.html", q=q, found=found, status=status, samples=example_links(index), index=index_figures(index)
        )

    @app.get("/user", include_in_schema=False, openapi_extra=needs("explore"))
    async def user(id: Text) -> HTMLResponse:
        index = service.reloader.index
        features, unavailable = await service.recommender.features(index, id)
        if index.user_position(id) is None and features is None and not unavailable:
            return not_found("user", id)
        record = await asyncio.to_thread(warehouse_records.user_records, service.settings, id)
        lists = await asyncio.to_thread(side_by_side, index, id, features, unavailable)
        return page(
            "user.html",
            user_id=id,
            features=features,
            profile=published_profile(features),
            record=record,
            lists=lists,
            unavailable=unavailable,
        )

    @app.get("/item", include_in_schema=False, openapi_extra=needs("explore"))
    async def item(id: Text) -> HTMLResponse:
        index = service.reloader.index
        position = index.item_position(id)
        if position is None:
            return not_found("item", id)
        record = await asyncio.to_thread(warehouse_records.item_records, service.settings, id)
        best, scores = await asyncio.to_thread(index.similar, position, LIST_LENGTH)
        similar = [
            describe_item(index, one) | {"score": float(score)}
            for one, score in zip(best.tolist(), scores, strict=True)
        ]
        return page(
            "item.html",
            item=describe_item(index, position),
            profile=profile_parts(index.catalogue.profiles[position]),
            n_users=int(index.counts[position]),
            added=position >= index.trained_items,
            record=record,
            similar=similar,
        )

    @app.get("/try", include_in_schema=False, openapi_extra=needs("explore"))
    async def new_user(
        item: Annotated[list[str] | None, Query(max_length=MAX_LIKED_ITEMS)] = None, q: Text = ""
    ) -> HTMLResponse:
        index = service.reloader.index
        liked = [one for one in dict.fromkeys(item or []) if index.item_position(one) is not None]
        chosen = [describe_item(index, index.item_position(one) or 0) for one in liked]
        request = RankingRequest(history=liked, k=LIST_LENGTH)
        result = await asyncio.to_thread(rank_and_explain, index, request, None, "") if liked else None
        found = await asyncio.to_thread(find, service, index, q) if q.strip() else None
        return page(
            "try.html", liked=liked, chosen=chosen, result=result, q=q, found=found, samples=example_links(index)
        )


def index_figures(index: CandidateIndex) -> dict[str, Any]:
    """Return the numbers of users and items that the first page shows."""
    return {
        "users": len(index.backbone.fitted.user_ids),
        "items": len(index.item_ids),
        "cold": int((index.counts == 0).sum()),
        "later": len(index.item_ids) - index.trained_items,
    }


def published_profile(features: UserFeatures | None) -> dict[str, Any] | None:
    """Return a user's published profile in parts; None when there is none."""
    if features is None or features.profile is None:
        return None
    profile = features.profile
    return profile_parts(profile.text) | {"engine": profile.engine, "flag": profile.flag, "as_of": profile.as_of}


def profile_parts(text: str) -> dict[str, Any]:
    """Return the phrases of a profile text; no phrases when it breaks the grammar."""
    profile = grammar.parse(text).profile
    return {
        "text": text,
        "identity": profile.identity if profile else (),
        "interests": interests_of(text),
    }


def side_by_side(
    index: CandidateIndex, user_id: str, features: UserFeatures | None, unavailable: str
) -> list[dict[str, Any]]:
    """Return the champion's recommendations, beside those of the same model without profiles when it was trained."""
    lists = [
        {
            "name": index.pointer["variant"],
            **rank_and_explain(index, RankingRequest(user_id=user_id, k=LIST_LENGTH), features, unavailable),
        }
    ]
    base_index = index.without_profiles
    if base_index is not None and base_index.user_position(user_id) is not None:
        lists.append(
            {"name": "base", **rank_and_explain(base_index, RankingRequest(user_id=user_id, k=LIST_LENGTH), None, "")}
        )
    item_ids = [{item["item_id"] for item in each["items"]} for each in lists]
    for number, each in enumerate(lists):
        others = set().union(*(ids for other, ids in enumerate(item_ids) if other != number))
        for item in each["items"]:
            item["only_here"] = len(lists) > 1 and item["item_id"] not in others
    return lists


def example_links(index: CandidateIndex) -> dict[str, list[Any]]:
    """Return a few users and items as a start for browsing."""
    users, items = index.examples
    hidden = set(index.hidden.positions().tolist())
    return {
        "users": [{"user_id": str(index.backbone.fitted.user_ids[one]), "n": len(index.known(one))} for one in users],
        "items": [describe_item(index, one) for one in items if one not in hidden],
    }


def find(service: Service, index: CandidateIndex, text: str) -> dict[str, Any]:
    """Find users by the start of their id, items by title or id, and items near in meaning."""
    query = text.strip()
    ids = index.backbone.fitted.user_ids
    order = index.sorted_user_ids
    start = bisect_left(order, query)
    users = [one for one in order[start : start + MAX_FOUND] if one.startswith(query)]
    low = query.casefold()
    hidden = set(index.hidden.positions().tolist())
    named = [
        row
        for row, (item, title) in enumerate(zip(index.item_ids.tolist(), index.catalogue.titles, strict=True))
        if row not in hidden and (low in title.casefold() or item == query)
    ][:MAX_FOUND]
    near: list[int] = []
    if service.search.ready:
        near = [row for row in service.search.find(index, query, LIST_LENGTH)[0].tolist() if row not in named]
    return {
        "users": users,
        "items": [describe_item(index, row) for row in named],
        "near": [describe_item(index, row) for row in near],
        "of": len(ids),
    }
