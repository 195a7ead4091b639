"""Build the HTTP interface.

In: settings. Out: an ASGI application (FastAPI), which describes itself at `/openapi.json`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sized
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.serving import events_api, explorer, lists_api
from reclm.serving.access_control import AccessControl
from reclm.serving.feature_client import StoreUnavailableError
from reclm.serving.filters import RankingRequest
from reclm.serving.impression_log import new_request_id
from reclm.serving.item_lists import NoItemListError
from reclm.serving.links import OF_A_LIST_OF_ITEMS, followed_by, link
from reclm.serving.lists_api import NO_LIST
from reclm.serving.metrics import exposition
from reclm.serving.recommender import days_since, describe_item, describe_model, feature_ages, interests_of
from reclm.serving.reloading import NoIndexError
from reclm.serving.reranking import Rules
from reclm.serving.route_access import needs
from reclm.serving.schemas import (
    FeatureAges,
    ItemDetails,
    ItemList,
    Liveness,
    Model,
    Problem,
    PublishedProfile,
    Readiness,
    RecommendationRequest,
    Recommendations,
    Reloaded,
    ScoredItem,
    SearchRequest,
    User,
    is_valid_id,
)
from reclm.serving.service import Service
from reclm.storage.version import VERSION

if TYPE_CHECKING:
    from reclm.settings.operations import ServeSettings
    from reclm.settings.tree import Settings

AFTER_RECOMMENDATIONS = OF_A_LIST_OF_ITEMS | {
    "event": link(
        "events",
        body={
            "events": [
                {
                    "event_id": "$response.body#/request_id",
                    "type": "click",
                    "user_id": "$response.body#/user_id",
                    "item_id": "$response.body#/items/0/item_id",
                    "event_ts": "2026-01-31T12:00:00Z",
                    "request_id": "$response.body#/request_id",
                }
            ]
        },
    ),
    "user": link("user", user_id="$response.body#/user_id"),
}


def _error_responses(*more: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, *more)}


def create_app(settings: Settings, metrics_folder: str = "") -> FastAPI:
    """Create the application; processes that share a `metrics_folder` answer `/metrics` together.

    Raises ReclmError without a champion or without published features, unless `serve.wait` is set.
    """
    service = Service(settings)
    service.reloader.start()
    service.feature_client.start()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.reloader.watch()
        service.search.start()
        service.events.start()
        service.recent.start()
        service.impressions.start()
        gc.collect()
        gc.freeze()  # a collection over all imported modules would delay tens of requests
        yield
        await service.reloader.stop()
        await asyncio.to_thread(service.events.stop)
        await asyncio.to_thread(service.recent.stop)
        await asyncio.to_thread(service.impressions.stop)
        service.feature_client.stop()

    app = FastAPI(
        title="reclm",
        version=VERSION,
        description="Recommendations from profiles of users and items.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    _add_errors(app)
    _add_recommendations(app, service)
    _add_lookups(app, service)
    _add_operations(app, service, metrics_folder)
    events_api.add_routes(app, service)
    lists_api.add_routes(app, service)
    if settings.serve.explorer:
        explorer.add_pages(app, service)
    app.add_middleware(AccessControl, settings=settings.serve, keys=service.keys)
    return app


def _add_errors(app: FastAPI) -> None:
    def problem(
        status: int, error: str, remedy: str, where: list[str] | None = None, headers: Any = None
    ) -> JSONResponse:
        body = Problem(error=error, remedy=remedy, where=where or []).model_dump()
        return JSONResponse(body, status_code=status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        """Answer 422 with the place of each error, without repeating what was sent; 415 for a body not sent as JSON."""
        sent_as = request.headers.get("content-type", "")
        if "json" not in sent_as and any(one["loc"] == ("body",) for one in error.errors()):
            remedy = "send the body as JSON with the header `content-type: application/json`"
            return problem(415, "the request's content type is not JSON", remedy)
        where = [f"{_error_location(one)}: {one['msg'][:200]}" for one in error.errors()[:20]]
        return problem(422, "the request is not valid", "see /openapi.json for what each field takes", where)

    @app.exception_handler(NoIndexError)
    async def no_model(_: Request, __: NoIndexError) -> JSONResponse:
        headers = {"retry-after": "5"}
        return problem(503, "there is no model to recommend with yet", "see /health/ready", headers=headers)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        problem_text, _, remedy = str(error.detail).partition("; ")
        if error.status_code == 400 and not remedy:  # the framework's own: bytes that are no text
            problem_text, remedy = "the body is not text", "send JSON in UTF-8, and not compressed"
        headers = {"allow": _methods(request)} if error.status_code == 405 else error.headers
        return problem(error.status_code, problem_text, remedy or "see /openapi.json", headers=headers)


def _methods(request: Request) -> str:
    """Return the methods that the routes of this path take; the router names those of the first route alone."""
    routes = (one for one in request.app.routes if one.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in routes for method in getattr(route, "methods", ())}))


def _error_location(error: Any) -> str:
    """Return the place of an error, without the name of a field that does not exist: it is the sender's text."""
    parts = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    return ".".join(str(part)[:50] for part in parts)


def _check_limits(service: Service, k: int, *lists: Sized) -> None:
    serve = service.settings.serve
    if k > serve.max_k:
        raise HTTPException(422, f"k is {k}; ask for at most {serve.max_k} (serve.max_k)")
    longest = max((len(one) for one in lists), default=0)
    if longest > serve.max_history:
        raise HTTPException(422, f"a list has {longest} ids; send at most {serve.max_history} (serve.max_history)")


def ranking_request(request: RecommendationRequest, serve: ServeSettings) -> RankingRequest:
    """Return what to rank, with the settings where the request leaves something open."""
    fields = RankingRequest.__dataclass_fields__.keys() & RecommendationRequest.model_fields.keys()
    rules = Rules(
        diversity=serve.diversity if request.diversity is None else request.diversity,
        max_per_category=serve.max_per_category if request.max_per_category is None else request.max_per_category,
        pins=[(pin.item_id, pin.position) for pin in request.pin],
        category_boosts=[*serve.boost_of_category().items(), *request.boosts.categories.items()],
        item_boosts=list(request.boosts.items.items()),
    )
    return RankingRequest(**{name: getattr(request, name) for name in fields}, rules=rules)


def _valid_id(value: str) -> str:
    if not is_valid_id(value):
        raise HTTPException(
            422, f"the id is not valid; use 1 to {MAX_ID_CHARACTERS} characters without control characters"
        )
    return value


def _add_recommendations(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/recommendations",
        response_model=None,
        responses={200: {"model": Recommendations, "links": AFTER_RECOMMENDATIONS}, **_error_responses()},
        openapi_extra=needs("recommend"),
    )
    async def recommendations(request: RecommendationRequest) -> JSONResponse:
        """Recommend items to a user, to a history sent with the request, or to both."""
        _check_limits(
            service,
            request.k,
            *(request.history, request.categories or [], request.pin),
            *(request.boosts.categories, request.boosts.items),
        )
        try:
            wanted = ranking_request(request, service.settings.serve)
            answer = await service.recommender.recommend(wanted, new_request_id())
        except NoItemListError:
            raise HTTPException(422, f"items_list or exclude_list: {NO_LIST}") from None
        service.impressions.record(answer)
        return JSONResponse(answer)

    @app.post(
        "/v1/search",
        responses={200: {"model": ItemList, "links": OF_A_LIST_OF_ITEMS}, **_error_responses()},
        openapi_extra=needs("recommend"),
    )
    async def search(request: SearchRequest) -> ItemList:
        """Find the items whose text and profile are nearest in meaning to a free text."""
        _check_limits(service, request.k)
        if not service.search.ready:
            raise HTTPException(
                503,
                f"search is not available: {service.search.reason_not_ready}; try again later",
                {"retry-after": "5"},
            )
        index = service.reloader.index
        best, scores = await asyncio.to_thread(service.search.find, index, request.query, request.k)
        return _item_list(index, best, scores)


def _item_list(index: Any, positions: Any, scores: Any) -> ItemList:
    items = [
        ScoredItem(**describe_item(index, position), score=float(score))
        for position, score in zip(positions.tolist(), scores, strict=True)
    ]
    return ItemList(model=Model(**describe_model(index)), items=items)


def _add_lookups(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/users/{user_id:path}",
        responses=_error_responses(404)
        | followed_by(200, recommend=link("recommendations", body={"user_id": "$response.body#/user_id"})),
        openapi_extra=needs("explore"),
    )
    async def user(user_id: str) -> User:
        """Return what is published about a user: profile, activity, and whether the model was trained on them."""
        index, unavailable, features = service.reloader.index, "", None
        position = index.user_position(_valid_id(user_id))
        try:
            features = await service.feature_client.user(user_id, index.version)
        except StoreUnavailableError as error:
            unavailable = f"feature store: {error}"
        if position is None and features is None and not unavailable:
            raise HTTPException(
                404, "nothing is known about this user; check the id, or send a history to /v1/recommendations"
            )
        n_known = 0 if position is None else len(index.known(position))
        published = features.profile if features else None
        profile = None
        if published is not None:
            profile = PublishedProfile(
                text=published.text,
                interests=list(interests_of(published.text)),
                engine=published.engine,
                flag=published.flag,
                as_of=published.as_of.isoformat(),
            )
        return User(
            user_id=user_id,
            trained=n_known > 0,
            known_items=n_known,
            profile=profile,
            activity=features.activity if features else None,
            n_interactions=features.n_interactions if features else None,
            days_since_last=days_since(features.last_interaction) if features else None,
            degraded=unavailable or None,
            model=Model(**describe_model(index)),
            features=FeatureAges(**feature_ages(features)),
        )

    @app.get(
        "/v1/items/{item_id:path}/similar",
        responses=_error_responses(404) | followed_by(200, **OF_A_LIST_OF_ITEMS),
        openapi_extra=needs("recommend"),
    )
    async def similar(
        item_id: str, request: Request, k: Annotated[int, Query(ge=1, description="At most serve.max_k.")] = 10
    ) -> ItemList | ItemDetails:
        """Return the items most similar to this one by the champion's vectors.

        An id that itself ends with `/similar` is told apart by its encoding: `/v1/items/a%2Fsimilar` is that item.
        """
        if not request.scope["raw_path"].endswith(b"/similar"):
            return await item(f"{item_id}/similar")
        _check_limits(service, k)
        index = service.reloader.index
        best, scores = await asyncio.to_thread(index.similar, _position(index, item_id), k)
        return _item_list(index, best, scores)

    @app.get("/v1/items/{item_id:path}", responses=_error_responses(404), openapi_extra=needs("recommend"))
    async def item(item_id: str) -> ItemDetails:
        """Return what is known about an item: title, categories, profile, number of users."""
        index = service.reloader.index
        position = _position(index, item_id)
        profile = index.catalogue.profiles[position]
        return ItemDetails(
            **describe_item(index, position),
            profile=profile,
            interests=list(interests_of(profile)),
            n_users=int(index.counts[position]),
            added_since_training=position >= index.trained_items,
            model=Model(**describe_model(index)),
        )

    def _position(index: Any, item_id: str) -> int:
        position = index.item_position(_valid_id(item_id))
        if position is None:
            raise HTTPException(404, "no candidate item has this id; check it, or wait until the item has a profile")
        return int(position)


def _add_operations(app: FastAPI, service: Service, metrics_folder: str) -> None:
    @app.get("/health/live", openapi_extra=needs("any"))
    async def live() -> Liveness:
        """Report that the process answers."""
        return Liveness(status="alive")

    @app.get("/health/ready", responses={503: {"model": Readiness}}, openapi_extra=needs("any"))
    async def ready(request: Request, response: Response) -> Readiness:
        """Report whether the service recommends.

        `ready`: everything works. `degraded` (200): it answers, from what it loaded before or without the store;
        `problems` lists what is missing, with details for callers who are let in elsewhere. `waiting` (503): there is
        no model yet.
        """
        problems = service.problems(details=request.scope["reclm.known"])
        try:
            index, tried = service.reloader.index, service.reloader.challenger
        except NoIndexError:
            response.status_code = 503
            return Readiness(status="waiting", problems=problems)
        return Readiness(
            status="degraded" if problems else "ready",
            problems=problems,
            model=Model(**describe_model(index)),
            challenger=None if tried is None else Model(**describe_model(tried)),
            items=len(index.item_ids),
            index="exact" if index.ann is None else "hnsw",
            recall=1.0 if index.ann_recall is None else index.ann_recall,
            loaded_at=service.reloader.loaded_at.isoformat(),
        )

    @app.get("/metrics", response_class=PlainTextResponse, responses=_error_responses(), openapi_extra=needs("any"))
    async def metrics() -> PlainTextResponse:
        """Return the metrics in Prometheus' text format."""
        return PlainTextResponse(exposition(metrics_folder), media_type=CONTENT_TYPE_LATEST)

    @app.post("/admin/reload", responses=_error_responses(), openapi_extra=needs("admin"))
    async def reload() -> Reloaded:
        """Load the index again now. Needs a key of scope admin when the workspace has keys."""
        reloaded = await service.reloader.refresh(force=True)
        model = Model(**describe_model(service.reloader.index))
        return Reloaded(reloaded=reloaded, problem=service.reloader.problem, model=model)
