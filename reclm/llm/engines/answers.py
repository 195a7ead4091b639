"""Collect answers in parquet shards as they are written.

In: requests. Out: one answer per distinct prompt. Identical prompts are answered once. Prompts without an answer are
divided into shards by length and hash, which depends on the prompts alone. A shard appears whole or not at all, so a
killed run repeats at most one shard and ends with the same answers as an undisturbed run. What a model says around a
profile is removed (`profiles/extraction.py`). An answer that holds no profile is requested again with sampling; one
that never does is kept as it is, counted and said.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from reclm.llm.engines.base import Engine
from reclm.llm.prompts.requests import Request, prompt_hash
from reclm.profiles import grammar
from reclm.profiles.extraction import profile_in
from reclm.progress import detail, say, track
from reclm.storage.files import write_rows
from reclm.storage.schemas import GENERATIONS

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

RETRY_TEMPERATURE = 0.7
"""Lowest temperature of a retry: a greedy retry would repeat the malformed answer."""


@dataclass(frozen=True)
class GenerationRow:
    """One prompt's answer.

    `tokens` and `latency_ms` are sums over its `attempts`; `seed` is that of the last attempt.
    """

    prompt_hash: str
    kind: str
    text: str
    tokens: int
    latency_ms: float
    parse_status: str
    attempts: int
    engine: str
    engine_version: str
    model_version: str
    seed: int


def generate(
    settings: Settings,
    engine: Engine,
    requests: Sequence[Request],
    folder: Path,
    known: Mapping[str, GenerationRow] | None = None,
) -> dict[str, GenerationRow]:
    """Answer every request; return {prompt hash: answer} in the order of the requests. Answers in `known` are reused.

    New answers are written to `folder/generations-00000.parquet` …, `profiles.shard_size` in each. Raises ModelError;
    finished shards are kept, and the next call with the same requests continues after them.
    """
    distinct: dict[str, Request] = {}
    for request in requests:
        distinct.setdefault(prompt_hash(request.messages), request)
    answered = {key: known[key] for key in distinct if key in known} if known else {}
    new = sorted((key for key in distinct if key not in answered), key=lambda key: (_size(distinct[key]), key))
    shards = _layout(folder, new, settings.profiles.shard_size)
    finished = {shard: rows for shard, keys in shards.items() if (rows := _read_finished(shard, keys, engine))}
    for rows in finished.values():
        answered |= rows
    if finished:
        detail(f"{len(finished)} of {len(shards)} shards were finished by an interrupted run")
    pending = {shard: keys for shard, keys in shards.items() if shard not in finished}
    started = time.monotonic()
    without: list[GenerationRow] = []
    for shard, keys in track(list(pending.items()), "writing profiles"):
        rows = _answer(settings, engine, {key: distinct[key] for key in keys})
        write_rows(shard, map(vars, rows.values()), GENERATIONS)
        answered |= rows
        without += [row for row in rows.values() if row.parse_status != grammar.OK]
    n_new = sum(map(len, pending.values()))
    if n_new:
        seconds = time.monotonic() - started
        detail(f"{engine.name} wrote {n_new:,} texts in {seconds:.1f} s ({n_new / max(seconds, 1e-9):.1f} a second)")
    if without:
        say(
            f"{len(without):,} of {n_new:,} answers hold no profile after {without[0].attempts} tries; the first: "
            f"{without[0].text[:200]!r} ({without[0].parse_status})"
        )
    return {key: answered[key] for key in distinct}


def _size(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)


def _layout(folder: Path, keys: Sequence[str], size: int) -> dict[Path, list[str]]:
    """Return {shard: prompt hashes}; remove the shards that an earlier run with another layout left."""
    shards = {
        folder / f"generations-{number:05d}.parquet": list(keys[start : start + size])
        for number, start in enumerate(range(0, len(keys), size))
    }
    for path in (*folder.glob("generations-*.parquet"), *folder.glob(".generations-*.tmp")):
        if path not in shards:
            path.unlink()
    return shards


def _read_finished(shard: Path, keys: Sequence[str], engine: Engine) -> dict[str, GenerationRow] | None:
    """Return the rows of a finished shard of these prompts and this engine, None when there is none."""
    if not shard.exists():
        return None
    rows = {row.prompt_hash: row for row in read([shard])}
    made_by = {(row.engine, row.engine_version, row.model_version) for row in rows.values()}
    return rows if list(rows) == list(keys) and made_by == {_made_by(engine)} else None


def _made_by(engine: Engine) -> tuple[str, str, str]:
    return engine.name, engine.version, engine.model_version


def _answer(settings: Settings, engine: Engine, requests: Mapping[str, Request]) -> dict[str, GenerationRow]:
    """Answer one shard's prompts, each with its retries."""
    rows: dict[str, GenerationRow] = {}
    for attempt in range(settings.profiles.retries + 1):
        pending = [key for key in requests if key not in rows or rows[key].parse_status != grammar.OK]
        if not pending:
            break
        seed, temperature = settings.seed + attempt, settings.profiles.temperature
        answers = engine.answer(
            [requests[key].messages for key in pending],
            kinds=[requests[key].kind for key in pending],
            temperature=temperature if attempt == 0 else max(temperature, RETRY_TEMPERATURE),
            seed=seed,
            max_tokens=settings.llm.max_profile_tokens,
            structured=True,
        )
        for position, answer in answers:
            key, text = pending[position], profile_in(answer.text)
            before = rows.get(key)
            rows[key] = GenerationRow(
                prompt_hash=key,
                kind=requests[key].kind,
                text=text,
                tokens=answer.tokens + (before.tokens if before else 0),
                latency_ms=answer.latency_ms + (before.latency_ms if before else 0.0),
                parse_status=grammar.parse(text).status,
                attempts=attempt + 1,
                engine=engine.name,
                engine_version=engine.version,
                model_version=engine.model_version,
                seed=seed,
            )
    return {key: rows[key] for key in requests}


def read(shards: Iterable[Path]) -> Iterator[GenerationRow]:
    """Read the rows of the shards, in order."""
    for shard in shards:
        for row in pq.read_table(shard, schema=GENERATIONS).to_pylist():
            yield GenerationRow(**row)


def earlier_answers(folders: Iterable[Path], engine: Engine) -> dict[str, GenerationRow]:
    """Return {prompt hash: answer} of what this engine, version and model wrote into `folders`; later folders win."""
    return {
        row.prompt_hash: row
        for folder in folders
        for row in read(sorted(folder.glob("generations-*.parquet")))
        if (row.engine, row.engine_version, row.model_version) == _made_by(engine)
    }
