"""Declare what each route needs from the caller.

In: a route's declaration, `openapi_extra=needs(scope)`. Out: what `access_control.py` checks before the route runs. A
route that declares nothing needs `admin`, so that a forgotten declaration opens nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi.routing import APIRoute
from starlette.routing import Match

from reclm.serving.api_keys import RouteScope

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import Scope


class RouteAccess(NamedTuple):
    """What a route needs: a scope (`any`: every valid key), and its own limit of the body in bytes, if it has one."""

    scope: RouteScope
    max_body: int | None = None


ANY_KEY = RouteAccess("any")


def needs(scope: RouteScope, max_body: int | None = None) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that needs a key of `scope`; the OpenAPI document shows it.

    `max_body` (bytes) takes the place of `serve.max_body` for this route.
    """
    limit = {} if max_body is None else {"x-max-body": max_body}
    return {"x-scope": scope, **limit}


def access_of(route: BaseRoute) -> RouteAccess:
    """Return what a route declares. Routes that FastAPI makes by itself (`/openapi.json`) need any key."""
    if not isinstance(route, APIRoute):
        return ANY_KEY
    declared = route.openapi_extra or {}
    return RouteAccess(declared.get("x-scope", "admin"), declared.get("x-max-body"))


def access_of_request(scope: Scope) -> RouteAccess:
    """Return what the route of a request declares; a path without a route needs any key, and answers 404."""
    for route in scope["app"].routes:
        if route.matches(scope)[0] is Match.FULL:
            return access_of(route)
    return ANY_KEY
