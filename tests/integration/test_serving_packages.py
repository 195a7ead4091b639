"""The service needs no package that its own image lacks: it runs here with every other one hidden."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from integration import pipeline
from integration import serving_world as world
from packaging.requirements import Requirement

pytestmark = pytest.mark.full
ROOT = Path(__file__).resolve().parents[2]
LISTED = (ROOT / "infra" / "recommender" / "requirements.txt").read_text()
PROGRAM = """
import asyncio, importlib.machinery, json, re, sys
from importlib import metadata
from pathlib import Path
hidden, there, workspace, flags = json.loads(sys.stdin.read())

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context=metadata.DistributionFinder.Context()):
        found = super().find_distributions(context)
        return (one for one in found if re.sub(r"[-_.]+", "-", one.name).lower() in there)

sys.meta_path[:] = [Finder if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
import reclm.cli.app, reclm.serving.server
from reclm.serving.api import create_app
from reclm.settings.loading import load
from reclm.text.encoder import load_encoder

settings = load(flags, workspace=Path(workspace), environment={})
app = create_app(settings)
body, sent = b'{"user_id": "user 3"}', []

async def ask():
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        sent.append(message)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/recommendations", "raw_path": b"/v1/recommendations",
             "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
             "scheme": "http", "root_path": "", "http_version": "1.1"}
    await app(scope, receive, send)

asyncio.run(ask())
assert load_encoder(settings)(["a dragon"]).shape == (1, 384)
print(sent[0]["status"], sent[1]["body"].decode())
"""


def installed_with(lines: str) -> set[str]:
    """Names of the distributions that a requirements file installs, with what they require themselves."""
    waiting = [Requirement(line) for line in lines.splitlines() if line[:1].isalpha()]
    found: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        extras = {"", *wanted.extras}
        if {(name, extra) for extra in extras} <= found:
            continue
        found |= {(name, extra) for extra in extras}
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        for line in requires:
            one = Requirement(line)
            if any(one.marker is None or one.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(one)
    return {name for name, _ in found}


def test_the_service_answers_with_the_packages_of_its_image_alone(tmp_path: Path) -> None:
    shop = world.open_shop(tmp_path / "shop")
    there = installed_with(LISTED)
    hidden = [
        module
        for module, names in metadata.packages_distributions().items()
        if module != "reclm" and not any(re.sub(r"[-_.]+", "-", name).lower() in there for name in names)
    ]
    assert {"dbt", "trl", "implicit", "matplotlib"} <= set(hidden)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(
            [hidden, sorted(there | {"reclm"}), str(shop.paths.root), ["serve.search=false", "runtime.threads=1"]]
        ),
        capture_output=True,
        text=True,
        env=pipeline.environment(),
        cwd=ROOT,
        check=False,
    )
    assert done.stdout.startswith("200 "), re.sub(r"(?m)^nanobind.*|^ - .*\n", "", done.stderr)[-3000:]
