"""What the store reads and is given: plain values between SQL and the rest of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from router.types import Dialect, Price, Tier

__all__ = ["FoundBackend", "FoundModel", "NewKey", "Row", "Rows", "Source", "UsageTotal"]

Row = Mapping[str, Any]
Source = Literal["manifest", "discovery", "agent"]


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


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on such a backend; what it does not say is None or empty."""

    id: str
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    price: Price = field(default_factory=Price)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `key` is shown once and kept nowhere."""

    id: str
    name: str
    key: str
    prefix: str
    models: tuple[str, ...]
    created_at: int


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """Sums over the usage rows of one group; `cost_usd` leaves out requests of unknown cost."""

    caller: str
    caller_name: str
    model: str | None
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Decimal
    unpriced: int
    """Requests with tokens whose cost is unknown."""
