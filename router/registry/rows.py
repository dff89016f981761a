"""What the store reads and is given: plain values between SQL and the rest of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from router.types import Dialect, Price, Tier

__all__ = [
    "ASKED",
    "Announcement",
    "Beat",
    "FoundBackend",
    "FoundModel",
    "Look",
    "LookState",
    "NewKey",
    "Row",
    "Rows",
    "Source",
    "UsageTotal",
]

Row = Mapping[str, Any]
Source = Literal["manifest", "discovery", "agent"]
ASKED = "declared:"
"""How the name begins under which is kept what a declared backend lists; no declared name can."""
LookState = Literal["ok", "empty", "failed"]
"""What a look at a source found: a list, nobody there to make one, or a failure."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Everything a catalog is built from, read in one transaction."""

    revision: int = 0
    backends: tuple[Row, ...] = ()
    models: tuple[Row, ...] = ()
    deployments: tuple[Row, ...] = ()
    policies: tuple[Row, ...] = ()
    keys: tuple[Row, ...] = ()
    agents: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundBackend:
    """A backend that nobody declared: discovered, or announced by an agent."""

    name: str
    dialect: Dialect
    base_url: str
    tier: Tier
    api_key_env: str | None = None
    accepts_messages: bool = False
    key_header: str | None = None
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on such a backend; what it does not say is None or empty."""

    id: str
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    price: Price = field(default_factory=Price)
    parent: str | None = None
    """The model that this one is an adapter of."""


@dataclass(frozen=True, slots=True)
class Look:
    """What became of a look at a source; moments in milliseconds since the epoch."""

    backend: str
    base_url: str
    state: LookState
    detail: str | None
    """Why there was no list, in words that hold no key."""
    looked_at: int
    listed_at: int | None = None
    """When a list last came."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What an agent says of itself when it registers; `models` as it reported them."""

    id: str
    name: str
    url: str
    models: tuple[Row, ...] = ()
    version: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """What an agent said last; `seen_at` in milliseconds since the epoch."""

    id: str
    seen_at: int
    queued: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `key` is shown once and kept nowhere."""

    id: str
    name: str
    key: str
    prefix: str
    models: tuple[str, ...]
    created_at: int
    objective: str | None = None


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """Sums over the usage rows of one group; `cost_usd` leaves out requests of unknown cost."""

    caller: str
    caller_name: str
    model: str
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    unpriced: int = 0
    """Requests with tokens whose cost is unknown."""
