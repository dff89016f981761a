"""How the registry's things are shown: plain JSON values, the same on the command line and over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from router.registry.build import same_url
from router.registry.declared import Change
from router.registry.manifest import plain_value
from router.registry.rows import Look, NewKey, Row, UsageTotal
from router.registry.snapshot import Catalog
from router.types import Backend, Deployment, Model, Policy

__all__ = [
    "agent_view",
    "backends_view",
    "changes_view",
    "key_view",
    "model_view",
    "new_key_view",
    "parse_moment",
    "policy_view",
    "time_text",
    "usage_view",
]


def time_text(milliseconds: int | None) -> str | None:
    """Return a moment as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return (
        datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


def parse_moment(text: str) -> int:
    """Return the moment that `24h` (ago) or a date means, in milliseconds since the epoch.

    Raises:
        ValueError: It is neither.
    """
    if ago := re.fullmatch(r"(\d{1,6})([mhd])", text):
        seconds = int(ago[1]) * {"m": 60, "h": 3600, "d": 86400}[ago[2]]
        return int((time.time() - seconds) * 1000)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text[:40]!r} is neither a duration such as 24h nor a date such as 2026-01-31") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() * 1000)


def model_view(model: Model) -> dict[str, Any]:
    """Return a model with its deployments."""
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "capabilities": sorted(model.capabilities),
        "quality": dict(model.quality),
        "fallbacks": list(model.fallbacks),
        "created": model.created,
        "parent": model.parent,
        "deployments": [_deployment_view(deployment) for deployment in model.deployments],
    }


def _deployment_view(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": deployment.id,
        "backend": deployment.backend.name,
        "tier": deployment.backend.tier,
        "upstream_model": deployment.upstream_model,
        "price": plain_value(asdict(deployment.price)),
        "limits": asdict(deployment.limits),
        "weight": deployment.weight,
        "priority": deployment.priority,
    }


def backends_view(catalog: Catalog, looks: Iterable[Look]) -> list[dict[str, Any]]:
    """Return the backends in force, each with what became of the last look at it."""
    seen = {same_url(look.base_url): look for look in looks}
    return [
        _backend_view(backend, catalog.models.values(), seen.get(same_url(backend.base_url)))
        for backend in catalog.backends.values()
    ]


def _backend_view(backend: Backend, models: Iterable[Model], look: Look | None) -> dict[str, Any]:
    """Return a backend; it never holds a secret, only the name of one."""
    served = [model.id for model in models if any(place.backend.name == backend.name for place in model.deployments)]
    return {
        "name": backend.name,
        "dialect": backend.dialect,
        "base_url": backend.base_url,
        "tier": backend.tier,
        "api_key_env": backend.api_key_env,
        "timeouts": asdict(backend.timeouts),
        "breaker": asdict(backend.breaker),
        "forward_headers": list(backend.forward_headers),
        "accepts_messages": backend.accepts_messages,
        "key_header": backend.key_header,
        "endpoints": sorted(backend.endpoints),
        "stale": backend.stale,
        "listing": None if look is None else _look_view(look),
        "models": served,
    }


def _look_view(look: Look) -> dict[str, Any]:
    return {
        "state": look.state,
        "detail": look.detail,
        "looked_at": time_text(look.looked_at),
        "listed_at": time_text(look.listed_at),
    }


def policy_view(policy: Policy, members: Sequence[Model]) -> dict[str, Any]:
    """Return a policy and the models that it chooses from now."""
    constraints = policy.constraints
    return {
        "name": policy.name,
        "candidates": list(policy.candidates),
        "weights": dict(policy.weights),
        "constraints": {
            "max_cost_usd": plain_value(constraints.max_cost_usd),
            "first_token_ms": constraints.first_token_ms,
            "privacy": constraints.privacy,
        },
        "hedge": None if policy.hedge is None else asdict(policy.hedge),
        "models": [model.id for model in members],
    }


def agent_view(row: Row) -> dict[str, Any]:
    """Return an agent as it last announced itself."""
    return {
        "id": row["id"],
        "name": row["name"],
        "url": row["url"],
        "backend": row["backend"],
        "version": row["version"],
        "device": row["device"],
        "state": "stale" if row["stale"] else "live",
        "queued": row["queued"],
        "running": row["running"],
        "models": list(row["models"]),
        "registered_at": time_text(row["registered_at"]),
        "last_seen": time_text(row["last_seen"]),
    }


def key_view(row: Row) -> dict[str, Any]:
    """Return a key without what it is checked by."""
    return {
        "id": row["id"],
        "name": row["name"],
        "prefix": row["prefix"],
        "models": list(row["models"]),
        "objective": row["objective"],
        "created_at": time_text(row["created_at"]),
        "revoked_at": time_text(row["revoked_at"]),
    }


def new_key_view(made: NewKey) -> dict[str, Any]:
    """Return a key just made, the only time that it is shown."""
    return {
        "id": made.id,
        "key": made.key,
        "name": made.name,
        "prefix": made.prefix,
        "models": list(made.models),
        "objective": made.objective,
        "created_at": time_text(made.created_at),
    }


def changes_view(changes: Iterable[Change]) -> dict[str, list[dict[str, str]]]:
    """Return what applying a manifest did."""
    view: dict[str, list[dict[str, str]]] = {"added": [], "changed": [], "removed": []}
    for change in changes:
        view[change.action].append({"kind": change.kind, "name": change.name})
    return view


def usage_view(total: UsageTotal) -> dict[str, Any]:
    """Return one line of the usage totals."""
    return {
        "key": total.caller,
        "key_name": total.caller_name,
        "model": total.model,
        "requests": total.requests,
        "errors": total.errors,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "cost_usd": plain_value(total.cost_usd),
        "unpriced_requests": total.unpriced,
    }
