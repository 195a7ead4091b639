"""Servers that a test starts on a free loopback port and stops by the process it started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def redis(folder: Path, port: int = 0, *, durable: bool = False) -> Iterator[int]:
    """A Redis server that stores nothing on disk, or in every way it can; yields its port."""
    program = shutil.which("redis-server")
    assert program, (
        "redis-server is not installed; install it (Debian: apt-get install redis-server) or run `make test`"
    )
    port = port or free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "3600 1" if durable else ""]
    options += ["--appendonly", "yes" if durable else "no", "--appendfsync", "always"]
    with subprocess.Popen([program, *options], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        started = any("eady to accept connections" in line for line in server.stdout)
        assert started, f"redis-server stopped with code {server.wait()}"
        try:
            yield port
        finally:
            server.terminate()


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with an empty database `airflow`; yields its SQLAlchemy URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "PostgreSQL is not installed; install it (Debian: apt-get install postgresql) or run `make test`"
    binaries, port = found[-1].parent, free_port()
    folder = Path(tempfile.mkdtemp(prefix="reclm-postgres-"))
    as_owner: list[str] = []
    if os.geteuid() == 0:  # initdb and postgres refuse root
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    options = ["--auth=trust", "--username=airflow", "--encoding=UTF8", "--no-sync"]
    subprocess.run([*as_owner, str(binaries / "initdb"), "-D", str(data), *options], check=True, capture_output=True)
    quick = ["-c", "fsync=off", "-c", f"unix_socket_directories={folder}", "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen(
        [*as_owner, str(binaries / "postgres"), "-D", str(data), "-p", str(port), *quick],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = ["-h", "127.0.0.1", "-p", str(port), "-U", "airflow"]
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([str(binaries / "pg_isready"), *address], capture_output=True, check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.2)
        subprocess.run([str(binaries / "createdb"), *address, "airflow"], check=True, capture_output=True)
        yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
