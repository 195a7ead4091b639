"""Check every request before it is answered, and add headers to every response.

In: a request. Out: the response of the application, or a refusal. This is an ASGI layer around the application. It
checks API key, scope, rate, number of requests in progress, and size of the body; health checks always pass. Its own
responses are JSON, `{"error", "remedy"}`, and repeat nothing of what was sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import logging
import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from reclm.serving.api_keys import ApiKey, ApiKeys
from reclm.serving.metrics import IN_FLIGHT, REQUEST_SECONDS, REQUESTS, SHED
from reclm.serving.route_access import ANY_KEY, RouteAccess, access_of_request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from reclm.settings.operations import ServeSettings

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPEN_PATHS = ("/health/live", "/health/ready")
METRICS_PATH = "/metrics"
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
}
MAX_CLIENTS = 10_000
BODY_SECONDS = 10.0
UNKNOWN_ROUTE = "none"
log = logging.getLogger("reclm.serve")


class Refusal(Exception):
    """Refuse a request with a status, an error text and a remedy."""

    def __init__(self, status: int, error: str, remedy: str, **headers: str) -> None:
        super().__init__(error)
        self.status, self.body = status, {"error": error, "remedy": remedy}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class RateLimit:
    """Limit each client's rate by a token bucket; the least recently seen clients are dropped first."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, client: str) -> float:
        """Return the seconds until the client may send a request; 0 means now, and the request is counted."""
        if not self.rate:
            return 0.0
        now = time.monotonic()
        left, since = self._buckets.pop(client, (float(self.burst), now))
        left = min(self.burst, left + (now - since) * self.rate)
        wait = 0.0 if left >= 1 else (1 - left) / self.rate
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class AccessControl:
    """Wrap the application.

    `scope["reclm.key"]` is the caller's key, None when no key is needed. On paths that are open to everybody,
    `scope["reclm.known"]` says whether the caller would be let in elsewhere.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, keys: ApiKeys) -> None:
        self.local_only = is_loopback(settings.host)
        self.app, self.settings, self.keys = app, settings, keys
        self.rate_limit = RateLimit(settings.rate, settings.burst)
        self.open_paths = (*OPEN_PATHS, METRICS_PATH) if settings.open_metrics else OPEN_PATHS
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        response_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, response_started
            if message["type"] == "http.response.start":
                status, response_started = message["status"], True
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in SECURITY_HEADERS.items() if n.encode() not in present),
                ]
            await send(message)

        try:
            if scope["path"] in self.open_paths:
                scope["reclm.known"] = self._knows(scope)
                await self.app(scope, receive, send_with_headers)
            else:
                await self._check_and_forward(scope, receive, send_with_headers)
        except Refusal as refusal:
            await _refuse(refusal, send_with_headers)
        except Exception:
            log.exception("a request failed")
            if not response_started:
                await _refuse(Refusal(500, "the service failed", "see the log of the service"), send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
            seconds = time.monotonic() - started
            REQUESTS.labels(route, str(status)).inc()
            REQUEST_SECONDS.labels(route).observe(seconds)
            log.info("%s %s %d %.1f ms", scope["method"], route, status, seconds * 1000)

    async def _check_and_forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.in_flight >= self.settings.max_in_flight:
            SHED.inc()
            raise Refusal(503, "too many requests at once", "try again in a second", retry_after="1")
        self.in_flight += 1
        IN_FLIGHT.set(self.in_flight)
        try:
            headers = _headers(scope)
            access = access_of_request(scope)
            key = self._caller(scope["method"], headers, access)
            scope["reclm.key"] = key
            client = key.name if key else str((scope.get("client") or ("",))[0])
            wait = self.rate_limit.wait_for(client)
            if wait:
                raise Refusal(
                    429, "too many requests", "send fewer requests per second", retry_after=str(max(1, round(wait)))
                )
            limit = access.max_body or self.settings.max_body
            try:
                replay = await asyncio.wait_for(self._read_body(headers, receive, limit), BODY_SECONDS)
            except TimeoutError:
                raise Refusal(408, "the body did not arrive", f"send it within {BODY_SECONDS:g} seconds") from None
            await self.app(scope, replay, send)
        finally:
            self.in_flight -= 1
            IN_FLIGHT.set(self.in_flight)

    def _knows(self, scope: Scope) -> bool:
        try:
            self._caller(scope["method"], _headers(scope), ANY_KEY)
        except Refusal:
            return False
        return True

    def _caller(self, method: str, headers: dict[str, str], access: RouteAccess) -> ApiKey | None:
        """Return the caller's key; None when the service needs none.

        A service on loopback without keys accepts requests whose Host is a loopback name; this stops pages of other
        sites whose name was made to resolve to this machine. A service that other machines reach always needs a key,
        also after the last key was removed while it runs.
        """
        _refuse_other_sites(method, headers)
        if self.local_only and not self.keys:
            if re.sub(r":\d+$", "", headers.get("host", "")) not in LOOPBACK:
                raise Refusal(403, "this service is open on loopback only", "make an API key with `reclm key add`")
            return None
        token = _token(headers)
        key = self.keys.find(token) if token else None
        if key is None:
            page = "text/html" in headers.get("accept", "")
            raise Refusal(
                401,
                "no valid API key came with the request",
                "send it as `Authorization: Bearer KEY` or as HTTP Basic password; `reclm key add NAME` makes one",
                www_authenticate='Basic realm="reclm", charset="UTF-8"' if page else 'Bearer realm="reclm"',
            )
        if not key.allows(access.scope):
            raise Refusal(
                403,
                f"this key has scope {' and '.join(key.scopes)}; this needs scope {access.scope}",
                f"make another key with `reclm key add NAME --scope {access.scope}`",
            )
        return key

    async def _read_body(self, headers: dict[str, str], receive: Receive, limit: int) -> Receive:
        """Read the whole body of at most `limit` bytes; returns a `receive` that delivers it."""
        declared = headers.get("content-length", "0")
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            if size > limit or (declared.isdigit() and int(declared) > limit):
                raise Refusal(413, f"the body has more than {limit} bytes", "send a smaller request")
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            more = message.get("more_body", False)
        if size > limit:
            raise Refusal(413, f"the body has more than {limit} bytes", "send a smaller request")
        delivered = False

        async def receive_body() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": b"".join(pieces), "more_body": False}

        return receive_body


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a service that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _refuse_other_sites(method: str, headers: dict[str, str]) -> None:
    """Refuse a POST that a page of another site made a browser send (cross-site request forgery)."""
    if method in ("GET", "HEAD"):
        return
    origin = headers.get("origin", "").partition("://")[2]
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") or (origin and origin != headers.get("host", "")):
        raise Refusal(
            403,
            "the request came from a page of another site",
            "send it from a program or from the service's own pages",
        )


def _token(headers: dict[str, str]) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("x-api-key", "").strip()


async def _refuse(refusal: Refusal, send: Any) -> None:
    body = json.dumps(refusal.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
