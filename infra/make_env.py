"""Prints `env.example` with every empty secret drawn: `python3 infra/make_env.py > infra/.env`. Needs Python alone."""

from __future__ import annotations

import base64
import os
from pathlib import Path

EXAMPLE = Path(__file__).with_name("env.example")


def drawn(example: str) -> str:
    """`example` with a secret, safe in a URL, behind every `NAME=` that has no value."""
    lines = example.splitlines()
    return "\n".join(f"{line}{_secret(line)}" if line[:1].isalpha() and line.endswith("=") else line for line in lines)


def _secret(name: str) -> str:
    size = 32 if "FERNET" in name else 48  # Fernet asks for exactly 32 bytes, token signing for 64 characters
    return base64.urlsafe_b64encode(os.urandom(size)).decode()


if __name__ == "__main__":
    print(drawn(EXAMPLE.read_text()))
