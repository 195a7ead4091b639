"""Prints `env.example` with a random value for every empty secret. Needs only Python.

python3 infra/make_env.py > infra/.env
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

EXAMPLE = Path(__file__).with_name("env.example")


def with_secrets(example: str) -> str:
    """Return `example` with a random secret, safe in a URL, after every `NAME=` without a value."""
    lines = example.splitlines()
    return "\n".join(f"{line}{_secret(line)}" if line[:1].isalpha() and line.endswith("=") else line for line in lines)


def _secret(name: str) -> str:
    size = 32 if "FERNET" in name else 48  # Fernet needs exactly 32 bytes, token signing 64 characters
    return base64.urlsafe_b64encode(os.urandom(size)).decode()


if __name__ == "__main__":
    print(with_secrets(EXAMPLE.read_text()))
