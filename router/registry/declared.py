"""The declared state in the tables: a manifest to rows and back, inside a caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert

from router.registry import schema
from router.registry.manifest import DeploymentSpec, Manifest, ModelSpec, plain
from router.registry.rows import ASKED, FoundBackend, Row, Rows

__all__ = ["Change", "changes_between", "manifest_of", "no_longer_asked", "to_be_asked", "write_manifest"]

_BACKEND = (
    "name",
    "dialect",
    "base_url",
    "tier",
    "api_key_env",
    "key_header",
    "endpoints",
    "discover",
    "timeouts",
    "breaker",
    "forward_headers",
)
_PRICES = ("input", "cached_input", "output")
_LIMITS = ("max_concurrency", "rpm", "tpm")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that applying a manifest does."""

    action: Literal["added", "changed", "removed"]
    kind: Literal["backend", "model", "policy"]
    name: str


def changes_between(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """Return what turns one declared state into another."""
    kinds: tuple[tuple[Literal["backend", "model", "policy"], dict[str, Any], dict[str, Any]], ...] = (
        (
            "backend",
            {item.name: plain(item) for item in old.backends},
            {item.name: plain(item) for item in new.backends},
        ),
        ("model", {item.id: plain(item) for item in old.models}, {item.id: plain(item) for item in new.models}),
        (
            "policy",
            {item.name: plain(item) for item in old.policies},
            {item.name: plain(item) for item in new.policies},
        ),
    )
    changes: list[Change] = []
    for kind, before, after in kinds:
        changes += [Change("added", kind, name) for name in after if name not in before]
        changes += [Change("changed", kind, name) for name in after if name in before and before[name] != after[name]]
        changes += [Change("removed", kind, name) for name in before if name not in after]
    return tuple(changes)


# --- rows to manifest -------------------------------------------------------------------------------


def manifest_of(rows: Rows) -> Manifest:
    """Return the declared part of the registry."""
    deployments: dict[str, list[Row]] = {}
    for row in rows.deployments:
        if row["source"] == "manifest":
            deployments.setdefault(row["model"], []).append(row)
    return Manifest.model_validate(
        {
            "backends": [_backend_data(row) for row in rows.backends if row["source"] == "manifest"],
            "models": [
                _model_data(row, deployments.get(row["id"], ())) for row in rows.models if row["source"] == "manifest"
            ],
            "policies": [_set(row, "name", "candidates", "weights", "constraints", "hedge") for row in rows.policies],
        }
    )


def _set(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row[name] is not None}


def _backend_data(row: Row) -> dict[str, Any]:
    return _set(row, *_BACKEND)


def _model_data(row: Row, deployments: Iterable[Row]) -> dict[str, Any]:
    facts = _set(row, "id", "aliases", "context_length", "max_output_tokens", "capabilities", "quality", "fallbacks")
    return {**facts, "deployments": [_deployment_data(place) for place in deployments]}


def _deployment_data(row: Row) -> dict[str, Any]:
    data = _set(row, "backend", "weight", "priority")
    if row["upstream_model"] != row["model"]:
        data["upstream_model"] = row["upstream_model"]
    data["price"] = {name: row[f"price_{name}"] for name in _PRICES}
    data["limits"] = {name: row[name] for name in _LIMITS}
    return data


# --- manifest to rows -------------------------------------------------------------------------------


def write_manifest(connection: Connection, manifest: Manifest, before: Rows, now: int) -> None:
    """Replace the declared rows by a manifest's.

    What the router learned by itself about a declared thing is kept: when it first saw a model,
    and whether a backend that has not moved takes `messages`.
    """
    for table in (schema.deployments, schema.models, schema.backends, schema.policies):
        connection.execute(delete(table).where(table.c.source == "manifest"))
    declared = [row for row in before.backends if row["source"] == "manifest"]
    talks = {(row["name"], row["base_url"]) for row in declared if row["accepts_messages"]}
    learned = {row["id"]: row["created_at"] for row in before.models if row["source"] == "manifest"}
    _insert(
        connection,
        schema.backends,
        [
            {
                "name": item.name,
                "position": position,
                "dialect": item.dialect,
                "base_url": item.base_url,
                "tier": item.tier,
                "api_key_env": item.api_key_env,
                "key_header": item.key_header,
                "endpoints": list(item.endpoints),
                "discover": item.discover or None,
                "timeouts": item.timeouts.model_dump(exclude_none=True),
                "breaker": item.breaker.model_dump(exclude_none=True),
                "forward_headers": list(item.forward_headers),
                "accepts_messages": (item.name, item.base_url) in talks,
            }
            for position, item in enumerate(manifest.backends)
        ],
    )
    _insert(
        connection,
        schema.models,
        [_model_row(item, position, learned.get(item.id, now)) for position, item in enumerate(manifest.models)],
    )
    _insert(
        connection,
        schema.deployments,
        [row for model in manifest.models for row in _deployment_rows(model)],
    )
    _insert(
        connection,
        schema.policies,
        [
            {
                "name": item.name,
                "position": position,
                "candidates": list(item.candidates),
                "weights": dict(item.weights),
                "constraints": _stored(item.constraints.model_dump(exclude_defaults=True)),
                "hedge": None if item.hedge is None else item.hedge.model_dump(exclude_defaults=True),
            }
            for position, item in enumerate(manifest.policies)
        ],
    )


def to_be_asked(row: Row) -> FoundBackend:
    """Return a declared backend's row as the found backend that what it lists belongs to: the same place."""
    return FoundBackend(
        name=ASKED + row["name"],
        dialect=row["dialect"],
        base_url=row["base_url"],
        tier=row["tier"],
        api_key_env=row["api_key_env"],
        key_header=row["key_header"],
    )


def no_longer_asked(before: Rows, manifest: Manifest) -> list[str]:
    """Return the names of found backends that a manifest's backends no longer stand behind."""
    asked = {(ASKED + item.name, item.base_url) for item in manifest.backends if item.discover}
    return [
        row["name"]
        for row in before.backends
        if row["name"].startswith(ASKED) and (row["name"], row["base_url"]) not in asked
    ]


def _insert(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), [{"source": "manifest", **row} for row in rows])


def _stored(data: dict[str, Any]) -> dict[str, Any]:
    return {key: format(value, "f") if isinstance(value, Decimal) else value for key, value in data.items()}


def _model_row(item: ModelSpec, position: int, created_at: int) -> dict[str, Any]:
    return {
        "id": item.id,
        "origin": "",
        "position": position,
        "aliases": list(item.aliases),
        "context_length": item.context_length,
        "max_output_tokens": item.max_output_tokens,
        "capabilities": list(item.capabilities),
        "quality": dict(item.quality),
        "fallbacks": list(item.fallbacks),
        "created_at": created_at,
    }


def _deployment_rows(model: ModelSpec) -> list[dict[str, Any]]:
    backends = [place.backend for place in model.deployments]
    rows = []
    for position, place in enumerate(model.deployments):
        upstream = place.upstream_model or model.id
        several = backends.count(place.backend) > 1
        rows.append(
            {
                "id": f"{model.id}@{place.backend}/{upstream}" if several else f"{model.id}@{place.backend}",
                "position": position,
                "model": model.id,
                "origin": "",
                "backend": place.backend,
                "upstream_model": upstream,
                **_numbers(place),
            }
        )
    return rows


def _numbers(place: DeploymentSpec) -> dict[str, Any]:
    return {
        **{f"price_{name}": getattr(place.price, name) for name in _PRICES},
        **{name: getattr(place.limits, name) for name in _LIMITS},
        "weight": place.weight,
        "priority": place.priority,
    }
