"""The online recommender under load on loopback, with Redis, beside a plain `feast serve` read of the same users.

Makes a shop of random vectors (100,000 users, 50,000 items, 64 numbers each; every user has a profile embedding of 384
numbers), starts a Redis server and `reclm serve`, and sends four mixes of requests: `warm` users that the model was
fitted on, `rules` the same with diversity and a limit for each category, `sparse` users known by a profile with a
history of two items, `cold` users with a history of three items only. First at full speed over 1 to 64 connections
(wrk), then at a steady rate with events posted beside it (an open loop: a late response delays no request), then at
that rate for a long time, watching memory. Each steady run is paired with a run against a server that does almost
nothing (`bare_server.py`), and with the share of time that a virtual machine's host took away: they show how much of a
latency comes from the machine.

    python benchmarks/serving.py --workspace FOLDER --soak 600  # the shop is kept for the next run
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from serving_payloads import NEWCOMERS, bodies, event_bodies

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN_EACH, WIDTH, TEXT_WIDTH = 20, 64, 384
SERVICE = "reclm serve"
CONNECTIONS = (1, 4, 16, 64)
MIXES = ("warm", "rules", "sparse", "cold")
TABLES = """
create table dim_items as select 'i' || n as item_id, n as item_index, 'Item ' || n as title, '' as text,
    ['kind ' || n % 50] as categories, '' as full_text, null::timestamptz as created_ts from range({items}) as t(n);
create table fct_feedback (user_id varchar, item_id varchar, event_ts timestamptz, weight double)
"""


def settings_of(workspace: Path, port: int) -> Any:
    from reclm.settings.loading import load

    redis = ["feast.online_store=redis", f"feast.redis_url=localhost:{port},db=0"]
    flags = [*redis, "runtime.threads=1", f"train.dim={WIDTH}", "serve.search=false"]
    return load(flags, workspace=workspace, environment={})


def make_shop(settings: Any, users: int, items: int) -> None:
    """Make a fitted model, published features and the item table, all random."""
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy import sparse

    from reclm.backbones.fitted import Fitted, Vectors
    from reclm.backbones.fold_in import learn
    from reclm.backbones.loading import create_backbone
    from reclm.dataset import EVALUATION_SETTINGS
    from reclm.features.publish import publish
    from reclm.promotion import champion
    from reclm.storage import artifacts
    from reclm.storage.files import write_json

    draw = np.random.default_rng(7)
    workspace = settings.paths
    workspace.warehouse.parent.mkdir(parents=True, exist_ok=True)
    workspace.warehouse.unlink(missing_ok=True)
    with duckdb.connect(str(workspace.warehouse)) as connection:
        connection.execute(TABLES.format(items=items))

    def unit(n: int, width: int) -> np.ndarray:
        rows = draw.standard_normal((n, width)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def lists(rows: np.ndarray) -> pa.Array:
        ends = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
        return pa.ListArray.from_arrays(ends, pa.array(rows.ravel()))

    def mart(key: str, ids: list[str], **columns: Any) -> pa.Table:
        n, clock = len(ids), pa.timestamp("us", tz="UTC")
        clocks = {name: pa.array([AS_OF] * n, clock) for name in ("as_of", "created_at")}
        return pa.table({key: pa.array(ids, pa.string()), **clocks, **columns})

    user_ids, item_ids = [f"u{n}" for n in range(users)], [f"i{n}" for n in range(items)]
    root = workspace.external / "drawn"
    root.mkdir(parents=True, exist_ok=True)
    all_users = [*user_ids, *(f"new{n}" for n in range(NEWCOMERS))]
    for kind, ids in (("user", all_users), ("item", item_ids)):
        n = len(ids)
        texts = [f"User identity: kind {m % 50} fan; User interests: kind {m % 50}, kind {m % 7}" for m in range(n)]
        profile = {
            "profile": pa.array(texts),
            "embedding": lists(unit(n, TEXT_WIDTH)),
            "quality": pa.array(np.ones(n, np.float32)),
            "engine": pa.array(["drawn"] * n),
            "flag": pa.array([""] * n),
        }
        pq.write_table(mart(f"{kind}_id", ids, **profile), root / f"feast_{kind}_profile.parquet")
    whole = {name: pa.array(np.full(len(all_users), 3)) for name in ("n_interactions", "n_categories")}
    active = {"days_since_last": pa.array(np.ones(len(all_users))), "activity": pa.array(["11-50"] * len(all_users))}
    pq.write_table(mart("user_id", all_users, **whole, **active), root / "feast_user_activity.parquet")
    seen = {name: pa.array(np.full(items, 3)) for name in ("n_interactions", "n_users_recent", "popularity_rank")}
    counted = mart("item_id", item_ids, **seen, coldness=pa.array(["11-50"] * items))
    pq.write_table(counted, root / "feast_item_activity.parquet")
    titles = pa.array([f"Item {n}" for n in range(items)])
    words = mart("item_id", item_ids, title=titles, embedding=lists(unit(items, TEXT_WIDTH)))
    pq.write_table(words, root / "feast_item_content.parquet")
    build = {"build_id": "drawn", "fingerprint": "drawn", "external_root": str(root)}
    write_json(workspace.current_build, build)
    publish(settings)

    def final(n: int, last: np.ndarray) -> np.ndarray:
        return np.hstack([unit(n, WIDTH), last[:, None]]).astype(np.float32)

    vectors = Vectors(final(users, np.ones(users)), final(items, 0.1 * draw.standard_normal(items)))
    columns = draw.integers(0, items * 9 // 10, users * KNOWN_EACH)  # the last tenth of the items is nobody's
    known = sparse.csr_matrix(
        (np.ones(len(columns), np.float32), (np.repeat(np.arange(users), KNOWN_EACH), columns)), shape=(users, items)
    )
    known.sum_duplicates()
    known.data[:] = 1
    fold_in = learn(vectors.users, vectors.items, known, unit(users, TEXT_WIDTH), 7)
    nothing = np.zeros((0, 1), np.float32)
    parameters = {"model": "biasmf", "variant": "augment", "seed": 7}
    with artifacts.writing(workspace, "served", parameters, {"warehouse": build["fingerprint"]}) as draft:
        backbone = create_backbone("biasmf", settings.train, settings.fusion, settings.runtime)
        network = {
            f"{s}/network.{k}": v.numpy()
            for s in EVALUATION_SETTINGS
            for k, v in backbone.network().state_dict().items()
        }
        backbone.restore(
            Fitted(
                user_ids=np.array(user_ids),
                item_ids=np.array(item_ids),
                known=known,
                vectors=dict.fromkeys(EVALUATION_SETTINGS, vectors),
                user_id_vectors=np.resize(nothing, (users, 1)),
                item_id_vectors=np.resize(nothing, (items, 1)),
                description={**parameters, "epochs": {}, "snapshot": "final"},
                networks=network,
                fold_in=fold_in,
            )
        )
        backbone.save(draft.path)
        draft.metrics = {"as_of": AS_OF.isoformat()}
    chosen = artifacts.all_of(workspace, "served")[-1]
    champion.publish(settings, chosen)
    moments = {"as_of": AS_OF.isoformat(), "promoted_at": AS_OF.isoformat()}
    write_json(workspace.champion, {**parameters, "version": chosen.version, "measured": chosen.version, **moments})


def by_wrk(url: str, path: str, payloads: list[bytes], connections: int, seconds: int, folder: Path) -> dict[str, Any]:
    """Send requests at full speed over a number of connections (wrk)."""
    listed = ",\n".join(f"  [==[{one.decode()}]==]" for one in payloads)
    script = folder / "ask.lua"
    script.write_text(
        f"local bodies = {{\n{listed}\n}}\nlocal at = 0\nwrk.method = 'POST'\n"
        "wrk.headers['content-type'] = 'application/json'\n"
        f"function request() at = at % #bodies + 1; return wrk.format(nil, '{path}', nil, bodies[at]) end\n"
        "function done(summary, latency)\n  local e = summary.errors\n"
        "  io.write(string.format('RESULT %d %d %.3f %.3f %d\\n', summary.requests, summary.duration / 1000,\n"
        "    latency:percentile(50) / 1000, latency:percentile(99) / 1000,\n"
        "    e.connect + e.read + e.write + e.status + e.timeout))\nend\n"
    )
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", output)
    assert found, output
    requests, milliseconds, p50, p99, errors = (float(one) for one in found.groups())
    return {"rps": round(requests / milliseconds * 1000, 1), "p50_ms": p50, "p99_ms": p99, "errors": int(errors)}


async def run_at_rate(
    host: str, port: int, path: str, payloads: list[bytes], rate: float, seconds: float
) -> dict[str, Any]:
    """`rate` requests per second, each at its planned moment; latency is measured from that moment."""
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies, bad = [], 0

    async def ask(body: bytes, due: float) -> None:
        nonlocal bad
        head = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        kept = bool(free)
        while True:
            try:
                reader, writer = free.pop() if kept and free else await asyncio.open_connection(host, port)
                writer.write(head.encode() + body)
                about = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", about)[1]))  # type: ignore[index]
                bad += b" 20" not in about.split(b"\r\n", 1)[0]
                free.append((reader, writer))
                break
            except (OSError, asyncio.IncompleteReadError):
                if not kept:
                    bad += 1
                    break
                kept = False  # an idle connection may have been closed: try once more on a new one
        latencies.append((time.monotonic() - due) * 1000)

    started, tasks = time.monotonic() + 0.1, []
    for number in range(int(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(ask(payloads[number % len(payloads)], due)))
    await asyncio.gather(*tasks)
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9]).round(2)
    return {"rate": rate, "requests": len(latencies), "p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999, "errors": bad}


def stolen_ticks() -> tuple[int, int]:
    """Read (time that the host took from this machine, total time), in ticks since the start."""
    ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


def run_and_watch(
    port: int, path: str, payloads: list[bytes], rate: float, seconds: float, events: float = 0.0
) -> dict[str, Any]:
    """Run at a steady rate, with events posted beside it, and measure the share of time that the host took away."""

    async def run_both() -> tuple[dict[str, Any], ...]:
        runs = [run_at_rate("127.0.0.1", port, path, payloads, rate, seconds)]
        if events:
            bodies = event_bodies(int(events * seconds))
            runs.append(run_at_rate("127.0.0.1", port, "/v1/events", bodies, events, seconds))
        return tuple(await asyncio.gather(*runs))

    before = stolen_ticks()
    steady, *posted = asyncio.run(run_both())
    taken, of = (now - then for now, then in zip(stolen_ticks(), before, strict=True))
    steady |= {"events": posted[0]} if posted else {}
    return {**steady, "stolen_percent": round(100 * taken / max(of, 1), 1)}


def in_rounds(
    ports: dict[str, int], path: str, payloads_of: dict[str, list[bytes]], arguments: argparse.Namespace
) -> None:
    """Run every mix at a steady rate in rounds, each also against the bare server; print all runs and the medians."""
    rate, seconds, rounds = arguments.rate, arguments.seconds, arguments.rounds
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(1, rounds + 1):
        for mix, payloads in payloads_of.items():
            for name, port in ports.items():
                events = arguments.events if name == SERVICE else 0.0
                steady = run_and_watch(port, path, payloads, rate, seconds, events)
                seen.setdefault((name, mix), []).append(steady)
                about = {"run": f"{name}, steady", "mix": mix, "round": number}
                print(json.dumps({**about, **steady}), flush=True)
    for (name, mix), runs in seen.items():
        medians = {key: float(np.median([run[key] for run in runs])) for key in ("p50_ms", "p99_ms", "stolen_percent")}
        total = {key: sum(run[key] for run in runs) for key in ("requests", "errors")}
        about = {"run": f"{name}, steady, median of {rounds}", "mix": mix, "rate": rate}
        print(json.dumps({**about, **medians, **total}), flush=True)


@contextmanager
def process(words: list[str], ready: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; `ready` is a URL that it answers, or '' for none."""
    server = subprocess.Popen(words, start_new_session=True, **more)
    try:
        deadline = time.monotonic() + 120
        while ready:
            try:
                httpx.get(ready, timeout=5)
                break
            except httpx.HTTPError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{words[0]} did not come up") from None
                time.sleep(0.2)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def resident_mb(pid: int) -> float:
    """Read the resident memory of a process, in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second of the steady runs")
    parser.add_argument("--events", type=float, default=50.0, help="events posted per second beside the steady runs")
    parser.add_argument("--rounds", type=int, default=5, help="of the steady runs")
    parser.add_argument("--soak", type=int, default=0, help="seconds of the long run; 0: none")
    parser.add_argument("--port", type=int, default=6399, help="of Redis; use the same port in every run")
    arguments = parser.parse_args()
    for program, package in (("wrk", "wrk"), ("redis-server", "redis-server")):
        if not shutil.which(program):
            raise SystemExit(f"{program} is not installed; Debian: apt-get install {package}")
    root = arguments.workspace.absolute()
    root.mkdir(parents=True, exist_ok=True)
    redis = [
        "redis-server",
        "--port",
        str(arguments.port),
        "--bind",
        "127.0.0.1",
        "--save",
        "3600 1",
        "--dir",
        str(root),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with process(redis, "", **quiet):
        time.sleep(3)
        settings = settings_of(root, arguments.port)
        if not settings.paths.champion.exists():
            began = time.monotonic()
            make_shop(settings, arguments.users, arguments.items)
            print(json.dumps({"run": "shop made", "seconds": round(time.monotonic() - began, 1)}), flush=True)
        measure(settings, arguments, root, quiet)


def measure(settings: Any, arguments: argparse.Namespace, root: Path, quiet: dict[str, Any]) -> None:
    """All runs against one service and one `feast serve`; a line of JSON each."""
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RECLM_WORKSPACE": str(root),
        "RECLM_FEAST__REDIS_URL": settings.feast.redis_url,
        "RECLM_FEAST__ONLINE_STORE": "redis",
        "RECLM_RUNTIME__THREADS": "1",
        "RECLM_SERVE__SEARCH": "false",
    }
    port, peer = arguments.port + 1, arguments.port + 2
    url, path = f"http://127.0.0.1:{port}", "/v1/recommendations"
    serve = [sys.executable, "-m", "reclm.cli", "serve", "--port", str(port)]
    payloads_of = {mix: bodies(mix, arguments.users, arguments.items) for mix in MIXES}
    with process(serve, f"{url}/health/live", env=variables, **quiet) as server:
        for mix, payloads in payloads_of.items():
            by_wrk(url, path, payloads, 4, 2, root)
            for connections in CONNECTIONS:
                result = by_wrk(url, path, payloads, connections, arguments.seconds, root)
                print(json.dumps({"run": "reclm serve", "mix": mix, "connections": connections, **result}), flush=True)
        time.sleep(5)  # unanswered requests of wrk would delay the first payloads
        bare = [sys.executable, str(Path(__file__).with_name("bare_server.py")), str(peer)]
        with process(bare, f"http://127.0.0.1:{peer}/", **quiet):
            in_rounds({SERVICE: port, "a bare server": peer}, path, payloads_of, arguments)
        if arguments.soak:
            everybody = [one for group in zip(*payloads_of.values(), strict=True) for one in group]
            before, parts = resident_mb(server.pid), 5
            for part in range(parts):
                seconds = arguments.soak / parts
                steady = run_and_watch(port, path, everybody, arguments.rate, seconds, arguments.events)
                memory = {"resident_mb": round(resident_mb(server.pid), 1), "at_first_mb": round(before, 1)}
                print(json.dumps({"run": f"soak, part {part + 1} of {parts}", **steady, **memory}), flush=True)
    repository = Path(__file__).parent.parent / "feature_repo"
    feast = [
        str(Path(sys.executable).with_name("feast")),
        "-c",
        str(repository),
        "-f",
        str(repository / "feature_store.redis.yaml"),
    ]
    feast += ["serve", "--host", "127.0.0.1", "--port", str(peer), "--no-access-log", "--workers", "1"]
    version = json.loads(settings.paths.champion.read_text())["version"]
    rows = [
        json.dumps(
            {
                "feature_service": "serving_v2",
                "full_feature_names": True,
                "entities": {"user_id": [json.loads(one)["user_id"]], "model_version": [version]},
            }
        )
        for one in payloads_of["warm"]
    ]
    with process(feast, f"http://127.0.0.1:{peer}/health", env=variables, **quiet):
        payloads = [one.encode() for one in rows]
        by_wrk(f"http://127.0.0.1:{peer}", "/get-online-features", payloads, 4, 2, root)
        for connections in CONNECTIONS:
            result = by_wrk(
                f"http://127.0.0.1:{peer}", "/get-online-features", payloads, connections, arguments.seconds, root
            )
            print(json.dumps({"run": "feast serve", "mix": "warm", "connections": connections, **result}), flush=True)


if __name__ == "__main__":
    main()
