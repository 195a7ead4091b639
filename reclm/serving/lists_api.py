"""Add the routes of named item lists.

In: the application and the parts of the service. Out: `/v1/lists`.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from reclm.dataset import MAX_ID_CHARACTERS
from reclm.serving.item_lists import NAME, NoItemListError
from reclm.serving.links import followed_by, link
from reclm.serving.route_access import needs
from reclm.serving.schemas import Problem, is_valid_id

if TYPE_CHECKING:
    from reclm.serving.service import Service

ListName = Annotated[str, InPath(pattern=f"^{NAME.pattern}$", description="Letters, digits, `.`, `_` and `-`.")]
NO_LIST = "there is no list of this name; GET /v1/lists names all, PUT /v1/lists/{name} makes one"
LINES = {"requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}}


class ListSummary(BaseModel):
    """Describe a list of items."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    items: int
    updated_at: datetime


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes to the application."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
    }
    max_body = service.settings.serve.max_list_body

    use = {
        "recommend": link("recommendations", body={"items_list": "$response.body#/name"}),
        "delete": link("delete_list", name="$response.body#/name"),
    }

    @app.put(
        "/v1/lists/{name}",
        responses=errors | followed_by(200, **use),
        openapi_extra={**needs("admin", max_body), **LINES},
    )
    async def write_list(name: ListName, request: Request) -> ListSummary:
        """Write a list, or replace it: one item id a line, as UTF-8 text. It is on the disk when this answers."""
        if not request.headers.get("content-type", "").startswith("text/plain"):
            raise HTTPException(415, "a list is text; send one item id a line with `content-type: text/plain`")
        return ListSummary.model_validate(await asyncio.to_thread(_write, service, name, await request.body()))

    @app.get("/v1/lists", responses=errors, openapi_extra=needs("admin"))
    async def lists() -> list[ListSummary]:
        """Name all lists."""
        return [ListSummary.model_validate(one) for one in await asyncio.to_thread(service.lists.all)]

    @app.delete("/v1/lists/{name}", status_code=204, responses=errors, openapi_extra=needs("admin"))
    async def delete_list(name: ListName) -> Response:
        """Delete a list; requests that name it are refused from now on."""
        try:
            await asyncio.to_thread(service.lists.delete, name)
        except NoItemListError:
            raise HTTPException(404, NO_LIST) from None
        return Response(status_code=204)


def _write(service: Service, name: str, body: bytes) -> Any:
    item_ids = []
    for number, line in enumerate(body.split(b"\n"), 1):
        try:
            item_id = line.rstrip(b"\r").decode()
        except UnicodeDecodeError:
            raise HTTPException(422, f"line {number} is not UTF-8; send the list as UTF-8 text") from None
        if item_id and not is_valid_id(item_id):
            raise HTTPException(
                422, f"line {number} is no id; an id has 1 to {MAX_ID_CHARACTERS} characters, no control characters"
            )
        item_ids += [item_id] if item_id else []
    return service.lists.write(name, item_ids)
