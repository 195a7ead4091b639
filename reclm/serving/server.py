"""Start the service.

In: settings. Out: a service that listens until Ctrl-C or SIGTERM; requests in progress are answered first.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from reclm.errors import SettingsError
from reclm.serving.access_control import is_loopback
from reclm.serving.api_keys import ApiKeys
from reclm.serving.process import run_process
from reclm.serving.workers import run_workers

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

BACKLOG = 2048  # connections that wait to be accepted


def serve(settings: Settings) -> None:
    """Run the service until it is stopped.

    Raises SettingsError when the port is in use, or when other machines could reach it without a key (with `serve.wait`
    it starts, and refuses every request until there is a key), and ReclmError when there is no champion.
    """
    host = settings.serve.host
    if not is_loopback(host) and not ApiKeys(settings.paths) and not settings.serve.wait:
        raise SettingsError(
            f"serve.host = {host!r} opens the service to other machines, and it has no API key; "
            "run `reclm key add NAME`, or set serve.host = 127.0.0.1"
        )
    listener = _listener(host, settings.serve.port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listener.getsockname()[1]}"

    def announce() -> None:
        page = f"page      {address}/\n" if settings.serve.explorer else ""
        print(f"{page}API       {address}/openapi.json\nstop      Ctrl-C", flush=True)

    run = run_process if settings.serve.workers == 1 else run_workers
    with listener:
        run(settings, listener, announce)


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"port {port} of {host} cannot be used ({error.strerror}); use another, or --port 0"
        ) from None
    listener.set_inheritable(True)
    return listener
