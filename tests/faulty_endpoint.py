"""A chat endpoint on loopback that fails on demand: it answers by itself, or stands before a real server as a proxy."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-of-the-test"
Fault = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers each prompt with a profile naming it, or with what `upstream` (an address) answers.

    `faults` are handed out first, one a request for an answer, each in its place.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, faults: Sequence[Fault] = (), port: int = 0, owner: str = "test", upstream: str = "") -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.faults, self.owner, self.upstream = list(faults), owner, upstream
        self.about: dict[str, Any] = {}  # what the list of models says besides
        self.wording: Callable[[str], str] = lambda profile: profile  # what the model says around its profile
        self.listings = 0
        self.bodies: list[dict[str, Any]] = []
        self.answered: Counter[str] = Counter()
        self.begun: list[float] = []
        self.under_way = self.most_under_way = 0
        self.pause = 0.0
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.upstream:
            self.send(self.forwarded(None))
            return
        self.server.listings += 1
        about = {name: value() if callable(value) else value for name, value in self.server.about.items()}
        model = {"id": "m-1", "object": "model", "owned_by": self.server.owner, **about}
        self.send({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append({**body, "authorization": self.headers["Authorization"]})
            server.begun.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            fault = server.faults.pop(0) if server.faults else None
        try:
            time.sleep(server.pause)
            if fault is not None:
                fault(self)
                return
            prompt = body["messages"][-1]["content"]
            profile = completion(server.wording(f"User identity: reader; User interests: {prompt}"))
            self.send(self.forwarded(body) if server.upstream else profile)
            with server.lock:
                server.answered[prompt] += 1
        finally:
            with server.lock:
                server.under_way -= 1

    def forwarded(self, body: Any) -> bytes:
        """What the server behind answers."""
        address = self.server.upstream.removesuffix("/v1") + self.path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return bytes(reply.read())

    def send(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


def completion(text: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    message |= {"role": "assistant", "content": text}
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m-1",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip


def status(code: int, **headers: str) -> Fault:
    body = {"error": {"message": f"said {KEY}"}}
    return lambda handler: handler.send(body, code, **headers)  # type: ignore[attr-defined]


def refuses(field: str, message: str, code: int = 400) -> Fault:
    """A model that does not know a request field."""
    body = {"error": {"message": f"{message} {KEY}", "type": "invalid_request_error", "param": field, "code": None}}
    return lambda handler: handler.send(body, code)  # type: ignore[attr-defined]


def says(body: Any) -> Fault:
    return lambda handler: handler.send(body)  # type: ignore[attr-defined]


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.8)


def drops_half_way(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "c", "choi')
    handler.close_connection = True


FAULTS: dict[str, Fault] = {
    "a time-out": hangs,
    "too many requests": status(429, Retry_After="0.05"),
    "too many requests, without a time": status(429),
    "an error of the server": status(500),
    "a server that is starting": status(503, Retry_After="0.02"),
    "something that is not JSON": says(b"<html>oops</html>"),
    "broken JSON": says(b'{"choices": ['),
    "a reply without choices": says({"id": "c", "object": "chat.completion", "choices": []}),
    "a reply of nothing": says({}),
    "a connection dropped half-way": drops_half_way,
    "a malformed profile": says(completion("I would rather talk about the weather.")),
    "an answer that is null": says(completion(None)),
}
