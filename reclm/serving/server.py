"""Start the server process.

In: settings. Out: a service that listens until Ctrl-C or SIGTERM; requests in progress are answered first.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

from reclm.errors import SettingsError
from reclm.serving.access_control import is_loopback
from reclm.serving.api_keys import ApiKeys

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75  # of an idle connection
# The event loop and the thread that reads the feature store take turns: the default of 5 ms would slow requests.
SWITCH_SECONDS = 0.0005


def serve(settings: Settings) -> None:
    """Run the service until it is stopped.

    Raises SettingsError when other machines could reach it without a key or the port is in use, and ReclmError when
    there is no champion.
    """
    import torch
    import uvicorn

    from reclm.serving.api import create_app

    serve_settings = settings.serve
    if not is_loopback(serve_settings.host) and not ApiKeys(settings.paths):
        raise SettingsError(
            f"serve.host = {serve_settings.host!r} opens the service to other machines, and it has no API key; "
            "run `reclm key add NAME`, or set serve.host = 127.0.0.1"
        )
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("httpx", "feast", "faiss", "sentence_transformers"):
        logging.getLogger(library).setLevel(logging.WARNING)
    torch.set_num_threads(max(settings.runtime.threads, 1))
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=serve_settings.host,
        port=serve_settings.port,
        log_config=None,
        access_log=False,  # its lines contain user ids
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    try:
        sockets = [config.bind_socket()]
    except SystemExit:
        raise SettingsError(
            f"port {serve_settings.port} of {serve_settings.host} cannot be used; use another, or --port 0"
        ) from None
    port = sockets[0].getsockname()[1]
    name = f"[{serve_settings.host}]" if ":" in serve_settings.host else serve_settings.host
    print(f"page      http://{name}:{port}/\nAPI       http://{name}:{port}/openapi.json\nstop      Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # raised again after a normal stop
        server.run(sockets=sockets)
