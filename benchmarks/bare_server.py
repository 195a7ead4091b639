"""A server that computes for two milliseconds per request and answers: the latency that the machine itself causes.

python benchmarks/bare_server.py PORT          # on loopback, until Ctrl-C; `benchmarks/serving.py` starts it
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time

SECONDS = 0.002
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b" " * 2000


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, one after another."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            until = time.perf_counter() + SECONDS
            while time.perf_counter() < until:
                pass
            writer.write(ANSWER)
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
