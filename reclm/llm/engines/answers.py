"""Prompts come in, answers go out, and stand in parquet shards as they are written: nothing twice, none lost.

Identical prompts are answered once. The prompts still to be answered are laid out in shards by length and hash, which
depends on the prompts alone; a shard appears whole or not at all, so a killed run repeats at most one and then ends where
an undisturbed one would have. An answer that does not parse is asked for again, sampled; what never parses is counted and
kept as it was said.
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
from reclm.progress import say, track
from reclm.storage.files import write_rows
from reclm.storage.schemas import GENERATIONS

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

RETRY_TEMPERATURE = 0.7
"""Least temperature of a retry: the same words again would be malformed again."""


@dataclass(frozen=True)
class GenerationRow:
    """One prompt's answer. `tokens` and `latency_ms` add up over its `attempts`; `seed` is that of the one kept."""

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
    """{prompt_hash: answer} of every request, in order of first mention; those in `known` are not asked again.

    New answers stand in `folder/generations-00000.parquet` …, `profiles.shard_size` each. Raises ModelError; the shards
    finished before it stay, and the next call with the same requests goes on behind them.
    """
    distinct: dict[str, Request] = {}
    for request in requests:
        distinct.setdefault(prompt_hash(request.messages), request)
    answered = {key: known[key] for key in distinct if key in known} if known else {}
    new = sorted((key for key in distinct if key not in answered), key=lambda key: (_size(distinct[key]), key))
    shards = _layout(folder, new, settings.profiles.shard_size)
    standing = {shard: rows for shard, keys in shards.items() if (rows := _finished(shard, keys, engine))}
    for rows in standing.values():
        answered |= rows
    if standing:
        say(f"  {len(standing)} of {len(shards)} shards stand from an interrupted run")
    pending = {shard: keys for shard, keys in shards.items() if shard not in standing}
    started = time.monotonic()
    for shard, keys in track(list(pending.items()), "writing profiles"):
        rows = _answer(settings, engine, {key: distinct[key] for key in keys})
        write_rows(shard, map(vars, rows.values()), GENERATIONS)
        answered |= rows
    made = sum(map(len, pending.values()))
    if made:
        seconds = time.monotonic() - started
        say(f"  {engine.name} wrote {made:,} texts in {seconds:.1f} s ({made / max(seconds, 1e-9):.1f} a second)")
    return {key: answered[key] for key in distinct}


def _size(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)


def _layout(folder: Path, keys: Sequence[str], size: int) -> dict[Path, list[str]]:
    """The shards and their prompts; what else an earlier run with another layout left is removed."""
    shards = {
        folder / f"generations-{number:05d}.parquet": list(keys[start : start + size])
        for number, start in enumerate(range(0, len(keys), size))
    }
    for path in (*folder.glob("generations-*.parquet"), *folder.glob(".generations-*.tmp")):
        if path not in shards:
            path.unlink()
    return shards


def _finished(shard: Path, keys: Sequence[str], engine: Engine) -> dict[str, GenerationRow] | None:
    """The rows of a shard that stands, None when it does not, or holds other prompts or another engine's answers."""
    if not shard.exists():
        return None
    rows = {row.prompt_hash: row for row in read([shard])}
    made_by = {(row.engine, row.engine_version, row.model_version) for row in rows.values()}
    return rows if list(rows) == list(keys) and made_by == {_made_by(engine)} else None


def _made_by(engine: Engine) -> tuple[str, str, str]:
    return engine.name, engine.version, engine.model_version


def _answer(settings: Settings, engine: Engine, requests: Mapping[str, Request]) -> dict[str, GenerationRow]:
    """The answers to one shard's prompts, each with its retries."""
    rows: dict[str, GenerationRow] = {}
    for attempt in range(settings.profiles.retries + 1):
        asked = [key for key in requests if key not in rows or rows[key].parse_status != grammar.OK]
        if not asked:
            break
        seed, temperature = settings.seed + attempt, settings.profiles.temperature
        answers = engine.answer(
            [requests[key].messages for key in asked],
            kinds=[requests[key].kind for key in asked],
            temperature=temperature if attempt == 0 else max(temperature, RETRY_TEMPERATURE),
            seed=seed,
            max_tokens=settings.llm.max_profile_tokens,
            structured=True,
        )
        for position, answer in answers:
            key, text = asked[position], answer.text.strip()
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
    """The rows of some shards, in order."""
    for shard in shards:
        for row in pq.read_table(shard, schema=GENERATIONS).to_pylist():
            yield GenerationRow(**row)


def earlier_answers(folders: Iterable[Path], engine: Engine) -> dict[str, GenerationRow]:
    """{prompt_hash: answer} of what this engine, version and model wrote into `folders`; the later folder counts."""
    return {
        row.prompt_hash: row
        for folder in folders
        for row in read(sorted(folder.glob("generations-*.parquet")))
        if (row.engine, row.engine_version, row.model_version) == _made_by(engine)
    }
