"""Measures how fast profiles are written with one model: by transformers and by vLLM.

Transformers writes one prompt at a time, in batches one after another, and in several batches at once, as reclm does
with a small model. Prompts are synthetic, each of its own words. Prints one JSON object per run, then the ratios.

    python benchmarks/generation.py --model FOLDER --prompts 1024 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence

WORDS = [
    "amber",
    "brook",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbour",
    "island",
    "juniper",
    "kettle",
    "lantern",
    "meadow",
    "north",
    "orchard",
    "pebble",
]


def synthetic_prompts(n: int, items: int, seed: int) -> list[list[dict[str, str]]]:
    """`n` prompts about users of `items` items and two neighbours."""
    from reclm.llm.prompts.messages import UserFacts, profile_request

    draw = random.Random(seed)

    def line() -> str:
        return f"{draw.choice(WORDS)}: {' '.join(draw.choices(WORDS, k=3))} {draw.randrange(10_000)}"

    facts = (
        UserFacts(tuple(line() for _ in range(items)), tuple((line(), line()) for _ in range(2))) for _ in range(n)
    )
    return [profile_request(one, "compact") for one in facts]  # type: ignore[misc]


def measure(
    engine_name: str, model: str, prompts: Sequence[list[dict[str, str]]], batch: int, tokens: int, at_once: int
) -> dict:
    """Measure profiles and tokens per second, after one prompt to warm up; at most `at_once` batches run together."""
    from reclm.llm.engines import transformers
    from reclm.llm.engines.opening import open_engine
    from reclm.settings.tree import Settings

    transformers.MAX_CONCURRENT_BATCHES = at_once
    settings = Settings(profiles={"engine": engine_name, "batch_size": batch})
    how = {"temperature": 0.0, "seed": 1, "max_tokens": tokens, "structured": False}
    with open_engine(settings, model) as engine:
        began = time.monotonic()
        list(engine.answer(prompts[:1], kinds=["user"], **how))
        started = time.monotonic()
        answers = dict(engine.answer(prompts, kinds=["user"] * len(prompts), **how))
        seconds = time.monotonic() - started
    total = sum(answer.tokens for answer in answers.values())
    return {
        "engine": engine_name,
        "version": engine.version,
        "batch": batch,
        "prompts": len(prompts),
        "seconds": round(seconds, 2),
        "start_up": round(started - began, 2),
        "profiles_per_second": round(len(prompts) / seconds, 2),
        "tokens_per_second": round(total / seconds, 1),
        "tokens_per_profile": round(total / len(prompts), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a causal language model")
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--items", type=int, default=4, help="items of a user in a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer at most")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--alone", type=int, default=64, help="prompts that are also answered one at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-vllm", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    import torch

    from reclm.llm.engines import transformers

    torch.set_num_threads(arguments.threads)
    prompts = synthetic_prompts(arguments.prompts, arguments.items, seed=1)
    runs = {
        "alone": ("transformers", prompts[: arguments.alone], 1, 1),
        "batched": ("transformers", prompts, arguments.batch, 1),
        "at_once": (
            "transformers",
            prompts,
            arguments.batch,
            min(arguments.threads, transformers.MAX_CONCURRENT_BATCHES),
        ),
        **({} if arguments.without_vllm else {"vllm": ("vllm", prompts, arguments.batch, 1)}),
    }
    speeds = {}
    for name, (engine, chosen, batch, at_once) in runs.items():
        result = measure(engine, arguments.model, chosen, batch, arguments.tokens, at_once)
        speeds[name] = result["profiles_per_second"]
        print(json.dumps({"run": name, **result}), flush=True)
    ratios = {
        f"{name}_to_alone": round(speed / speeds["alone"], 2) for name, speed in speeds.items() if name != "alone"
    }
    if "vllm" in speeds:
        ratios |= {f"vllm_to_{name}": round(speeds["vllm"] / speeds[name], 2) for name in ("batched", "at_once")}
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
