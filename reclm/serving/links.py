"""Declare which request may follow an answer: OpenAPI links.

In: the operation that may follow and where its values stand in the request or the answer. Out: `responses` entries for
a route. Generated clients and fuzzers follow them; people read them at `/openapi.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST_ITEM = "$response.body#/items/0/item_id"


def link(operation: str, *, body: Mapping[str, Any] | None = None, **parameters: str) -> dict[str, Any]:
    """Return a link to the route function `operation`; values are OpenAPI runtime expressions or constants."""
    described: dict[str, Any] = {"operationId": operation}
    if parameters:
        described["parameters"] = parameters
    if body is not None:
        described["requestBody"] = dict(body)
    return described


def followed_by(status: int, **links: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` entry of `status` with links, by name."""
    return {status: {"links": links}}


OF_A_LIST_OF_ITEMS = {
    "details": link("item", item_id=FIRST_ITEM),
    "similar": link("similar", item_id=FIRST_ITEM),
    "hide": link("set_availability", item_id=FIRST_ITEM, body={"available": False}),
}
"""What may follow an answer with ranked items."""
