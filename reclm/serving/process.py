"""Run one serving process on a socket.

In: settings and a bound socket. Out: answers, until SIGTERM or SIGINT; requests in progress are answered first.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from reclm.settings.tree import Settings

GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75  # of an idle connection
# The event loop and the thread that reads the feature store take turns: the default of 5 ms would slow requests.
SWITCH_SECONDS = 0.0005


def run_process(
    settings: Settings, listener: socket.socket, ready: Callable[[], None], metrics_folder: str = ""
) -> None:
    """Load the champion, call `ready`, and answer requests until the process is told to stop.

    Raises ReclmError when there is no champion.
    """
    import torch
    import uvicorn

    from reclm.serving.api import create_app

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("httpx", "feast", "faiss", "sentence_transformers"):
        logging.getLogger(library).setLevel(logging.WARNING)
    torch.set_num_threads(max(settings.runtime.threads, 1))
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        create_app(settings, metrics_folder),
        log_config=None,
        access_log=False,  # its lines contain user ids
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    ready()
    with contextlib.suppress(KeyboardInterrupt):  # raised again after a normal stop
        uvicorn.Server(config).run(sockets=[listener])
