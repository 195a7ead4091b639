"""Create, find and remove the API keys of the service.

In: the name, scopes and expiry of a key. Out: a token, shown once; only its hash is stored. The file is
`<workspace>/serve/keys.json`, readable by its owner only. A token has 256 random bits, so a plain SHA-256 protects it
as well as a slow hash. The scopes:

    recommend   recommendations, items and search
    events      send what people did
    explore     the explorer's pages; profile, activity and history of every user
    admin       change what is served; includes the other three
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from reclm.errors import InputError
from reclm.storage import audit
from reclm.storage.files import read_json
from reclm.storage.locks import alone

if TYPE_CHECKING:
    from reclm.storage.workspace import Workspace

KeyScope = Literal["recommend", "events", "explore", "admin"]
KEY_SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
RouteScope = KeyScope | Literal["any"]
SCOPES_OF_EARLIER_KEYS: dict[str, tuple[KeyScope, ...]] = {"read": ("recommend", "explore"), "admin": ("admin",)}
"""Keys made by reclm 0.1 have one scope, `read` or `admin`; they keep what they opened."""
PREFIX = "reclm_"
MAX_DAYS = 36_500


@dataclass(frozen=True)
class ApiKey:
    """Describe a stored key. Times are ISO 8601 in UTC; `expires_at` is empty when the key does not expire."""

    name: str
    scopes: tuple[KeyScope, ...]
    sha256: str
    created_at: str
    expires_at: str = ""

    @property
    def expired(self) -> bool:
        return bool(self.expires_at) and datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)

    def allows(self, scope: RouteScope) -> bool:
        """Return whether the key opens routes of `scope`."""
        return scope == "any" or scope in self.scopes or "admin" in self.scopes


class ApiKeys:
    """Read the keys of a workspace, again whenever the file changes."""

    def __init__(self, workspace: Workspace) -> None:
        self.path = path_of(workspace)
        self._stamp: tuple[int, int] | None = None
        self._keys: list[ApiKey] = []

    def __bool__(self) -> bool:
        return bool(self.all())

    def all(self) -> list[ApiKey]:
        """Return all keys, including expired ones."""
        try:
            about = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, []
            return []
        stamp = (about.st_mtime_ns, about.st_ino)
        if stamp != self._stamp:
            self._keys, self._stamp = [_key(row) for row in read_json(self.path)], stamp
        return self._keys

    def find(self, token: str) -> ApiKey | None:
        """Return the key of a token; None when it is unknown or expired. Each comparison takes constant time."""
        digest, found = _digest(token), None
        for key in self.all():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or found.expired else found


def path_of(workspace: Workspace) -> Path:
    """Return the file that holds the keys."""
    return workspace.root / "serve" / "keys.json"


def add(workspace: Workspace, name: str, scopes: Sequence[str], days: float | None = None) -> str:
    """Add a key and return its token, which is not stored.

    Raises InputError for a name that is invalid or in use, and for an unknown scope.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InputError(f"key name {name!r}: use letters, digits, '.', '_' and '-', at most 64 of them")
    known = [scope for scope in KEY_SCOPES if scope in scopes]
    unknown = sorted(set(scopes) - set(known))
    if unknown or not known:
        raise InputError(f"--scope {', '.join(unknown)}: use one or more of {', '.join(KEY_SCOPES)}")
    if days is not None and not 0 < days <= MAX_DAYS:
        raise InputError(f"--days {days:g}: use a number above 0, at most {MAX_DAYS}")
    token = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    expires = "" if days is None else (now + timedelta(days=days)).isoformat()
    key = ApiKey(name, tuple(known), _digest(token), now.isoformat(), expires)
    with alone(workspace.locks / "keys.lock", "the keys are being changed", workspace.lock_timeout):
        keys = ApiKeys(workspace).all()
        if any(other.name == name for other in keys):
            raise InputError(
                f"a key named {name!r} exists already; run `reclm key remove {name}` first, or use another name"
            )
        _write(workspace, [*keys, key])
        audit.record(workspace, "add key", name=name, scopes=known, expires_at=expires)
    return token


def remove(workspace: Workspace, name: str) -> None:
    """Remove a key; its token is refused from now on. Raises InputError when no key has this name."""
    with alone(workspace.locks / "keys.lock", "the keys are being changed", workspace.lock_timeout):
        keys = ApiKeys(workspace).all()
        remaining = [key for key in keys if key.name != name]
        if len(remaining) == len(keys):
            raise InputError(f"no key is named {name!r}; `reclm key list` shows all keys")
        _write(workspace, remaining)
        audit.record(workspace, "remove key", name=name)


def _key(row: dict[str, Any]) -> ApiKey:
    about = dict(row)
    scopes = SCOPES_OF_EARLIER_KEYS[about.pop("scope")] if "scope" in about else tuple(about.pop("scopes"))
    return ApiKey(**about, scopes=scopes)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _write(workspace: Workspace, keys: list[ApiKey]) -> None:
    path = path_of(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump([asdict(key) for key in keys], file, indent=2)
    temporary.replace(path)
