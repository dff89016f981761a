"""Making API keys: 256 random bits, shown once, kept as SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from router.registry.rows import NewKey

__all__ = ["make_key"]

_PREFIX = "sk-router-"
_SHOWN = len(_PREFIX) + 6


def make_key(name: str, models: Sequence[str], now: int) -> tuple[NewKey, dict[str, Any]]:
    """Return a new key and the row that is kept of it.

    Args:
        name: What people call it.
        models: Globs of the models and policies that it may use.
        now: Milliseconds since the epoch.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    made = NewKey(f"key_{secrets.token_hex(8)}", name, key, key[:_SHOWN], tuple(models), now)
    row = {
        "id": made.id,
        "name": made.name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "prefix": made.prefix,
        "models": list(made.models),
        "created_at": made.created_at,
    }
    return made, row
