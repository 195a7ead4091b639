"""The process: settings come in, a listening service comes up, and Ctrl-C or SIGTERM ends it once what it works on is answered."""

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
KEEP_ALIVE_SECONDS = 75  # of a connection on which nothing is asked
SWITCH_SECONDS = 0.0005  # the event loop and the thread that asks the store take turns; five milliseconds would be felt


def serve(settings: Settings) -> None:
    """Serves until it is told to stop. Raises SettingsError where it would be open to others without a key, or the port is
    taken, and ReclmError where there is nothing to serve."""
    import torch
    import uvicorn

    from reclm.serving.api import create_app

    where = settings.serve
    if not is_loopback(where.host) and not ApiKeys(settings.paths):
        raise SettingsError(
            f"serve.host = {where.host!r} would open the service to others, and it has no API key; `reclm key add NAME` makes "
            "one, or leave serve.host at 127.0.0.1"
        )
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "feast", "faiss", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    torch.set_num_threads(max(settings.runtime.threads, 1))
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=where.host,
        port=where.port,
        log_config=None,
        access_log=False,  # its lines hold ids
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    try:
        sockets = [config.bind_socket()]
    except SystemExit:
        raise SettingsError(
            f"port {where.port} of {where.host} cannot be had; choose another with --set serve.port=0"
        ) from None
    port = sockets[0].getsockname()[1]
    name = f"[{where.host}]" if ":" in where.host else where.host
    print(f"page      http://{name}:{port}/\nAPI       http://{name}:{port}/openapi.json\nstop      Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # raised again once all is answered: here it is the usual end
        server.run(sockets=sockets)
