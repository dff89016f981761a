"""Making API keys: 256 random bits, shown once, kept as SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Any

from router.registry.rows import NewKey

__all__ = ["OBJECTIVE", "make_key", "objective_name"]

_PREFIX = "sk-router-"
_SHOWN = len(_PREFIX) + 6
OBJECTIVE = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
"""What Kubernetes lets the name of an object look like."""
_LONGEST = 253


def objective_name(text: str) -> str:
    """Return the name of an InferenceObjective.

    Raises:
        ValueError: It cannot be one's.
    """
    if len(text) > _LONGEST or not re.fullmatch(OBJECTIVE, text):
        raise ValueError(
            f"{text[:40]!r} is not the name of a Kubernetes object: at most {_LONGEST} lower-case letters, digits,"
            " '-' and '.', and a letter or digit at both ends"
        )
    return text


def make_key(name: str, models: Sequence[str], now: int, objective: str | None = None) -> tuple[NewKey, dict[str, Any]]:
    """Return a new key and the row that is kept of it.

    Args:
        name: What people call it.
        models: Globs of the models and policies that it may use.
        now: Milliseconds since the epoch.
        objective: What a cluster's scheduler is told of its requests.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    made = NewKey(f"key_{secrets.token_hex(8)}", name, key, key[:_SHOWN], tuple(models), now, objective)
    row = {
        "id": made.id,
        "name": made.name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "prefix": made.prefix,
        "models": list(made.models),
        "created_at": made.created_at,
        "objective": objective,
    }
    return made, row
