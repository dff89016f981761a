"""What nobody declared in the tables: found backends with their models, inside a caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from router.registry import schema
from router.registry.rows import FoundBackend, FoundModel, Source
from router.types import Price

__all__ = ["Missed", "after_look", "found_as", "note_missed", "now_ms", "remove_found", "replace_found"]

Missed = Mapping[str, int]
"""For how many looks in a row a model has not been found; those that were are not in it."""
_NONE: Missed = {}
_UNCOMPARED = ("created_at", "missed")


def now_ms() -> int:
    """Return the time as the tables keep it."""
    return time.time_ns() // 1_000_000


def after_look(
    connection: Connection,
    backend: FoundBackend,
    listed: Sequence[FoundModel] | None,
    named: Collection[str],
    patience: int,
) -> tuple[list[FoundModel], Missed]:
    """Return what a discovered backend serves after a look at it, and what of that the look did not find.

    Args:
        connection: The transaction.
        backend: The backend.
        listed: What it listed; None: it did not, and nothing is missed.
        named: The models that it has whatever it lists.
        patience: After how many looks in a row a model that is not found is gone.
    """
    known = _known(connection, backend)
    models = {model.id: model for model in listed or ()}
    missed: dict[str, int] = {}
    for name, (model, before) in known.items():
        times = before if listed is None or name in named else before + 1
        if name not in models and times < patience:
            models[name] = model
            missed[name] = times
    for name in named:
        models.setdefault(name, FoundModel(name))
    return list(models.values()), {name: times for name, times in missed.items() if times}


def _known(connection: Connection, backend: FoundBackend) -> dict[str, tuple[FoundModel, int]]:
    """Return the models of a discovered backend, unless it has moved, and for how many looks each is missing."""
    table, places = schema.models, schema.deployments
    url = select(schema.backends.c.base_url).where(
        schema.backends.c.name == backend.name, schema.backends.c.source == "discovery"
    )
    if connection.execute(url).scalar() != backend.base_url:
        return {}
    query = (
        select(table, places.c.price_input, places.c.price_cached_input, places.c.price_output)
        .join(places, (places.c.model == table.c.id) & (places.c.origin == table.c.origin))
        .where(table.c.origin == backend.name, table.c.source == "discovery")
        .order_by(table.c.id)
    )
    return {row["id"]: (_model_of(row), row["missed"] or 0) for row in connection.execute(query).mappings()}


def _model_of(row: Mapping[Any, Any]) -> FoundModel:
    return FoundModel(
        id=row["id"],
        context_length=row["context_length"],
        max_output_tokens=row["max_output_tokens"],
        capabilities=tuple(row["capabilities"]),
        price=Price(row["price_input"], row["price_cached_input"], row["price_output"]),
        parent=row["parent"],
    )


def found_as(connection: Connection, backend: FoundBackend, models: Sequence[FoundModel], source: Source) -> bool:
    """Return whether the tables already say exactly this."""

    def differs(table: Table, column: str, wanted: list[dict[str, Any]], key: str) -> bool:
        query = select(table).where(table.c[column] == backend.name, table.c.source == source)
        found = {row[key]: dict(row) for row in connection.execute(query).mappings()}
        if len(found) != len(wanted):
            return True
        return any(not _says(found.get(row[key]), row) for row in wanted)

    unique = list({model.id: model for model in models}.values())
    return not (
        differs(schema.backends, "name", [_backend_row(backend, source)], "name")
        or differs(schema.models, "origin", [_model_row(model, backend, source) for model in unique], "id")
        or differs(schema.deployments, "backend", [_deployment_row(model, backend, source) for model in unique], "id")
    )


def _says(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    return found is not None and all(found[key] == value for key, value in wanted.items() if key not in _UNCOMPARED)


def note_missed(connection: Connection, backend: FoundBackend, missed: Missed, *, write: bool) -> bool:
    """Return whether it is news which models the last look missed, and write it down if asked to."""
    table = schema.models
    query = select(table.c.id, table.c.missed).where(table.c.origin == backend.name, table.c.source == "discovery")
    news = [row.id for row in connection.execute(query) if (row.missed or 0) != missed.get(row.id, 0)]
    for name in news if write else ():
        connection.execute(
            update(table)
            .where(table.c.id == name, table.c.origin == backend.name, table.c.source == "discovery")
            .values(missed=missed.get(name))
        )
    return bool(news)


def replace_found(
    connection: Connection,
    backend: FoundBackend,
    models: Sequence[FoundModel],
    source: Source,
    missed: Missed = _NONE,
) -> None:
    """Write a found backend with its models and deployments in place of what was known of it."""
    table = schema.models
    known = select(table.c.id, table.c.created_at).where(table.c.origin == backend.name)
    learned = {row.id: row.created_at for row in connection.execute(known)}
    remove_found(connection, backend.name, source)
    connection.execute(insert(schema.backends).values(_backend_row(backend, source)))
    unique = {model.id: model for model in models}.values()
    if not unique:
        return
    now = now_ms()
    rows = [_model_row(model, backend, source, learned.get(model.id, now), missed.get(model.id)) for model in unique]
    connection.execute(insert(table), rows)
    connection.execute(insert(schema.deployments), [_deployment_row(model, backend, source) for model in unique])


def remove_found(connection: Connection, backend: str, source: Source) -> None:
    """Remove a found backend with its models and deployments."""
    for table, column in (
        (schema.deployments, schema.deployments.c.backend),
        (schema.models, schema.models.c.origin),
        (schema.backends, schema.backends.c.name),
    ):
        connection.execute(delete(table).where(column == backend, table.c.source == source))


def _backend_row(backend: FoundBackend, source: Source) -> dict[str, Any]:
    return {
        "name": backend.name,
        "source": source,
        "dialect": backend.dialect,
        "base_url": backend.base_url,
        "tier": backend.tier,
        "api_key_env": backend.api_key_env,
        "timeouts": {},
        "breaker": {},
        "forward_headers": [],
        "accepts_messages": backend.accepts_messages,
        "key_header": backend.key_header,
        "endpoints": sorted(backend.endpoints),
    }


def _model_row(
    model: FoundModel, backend: FoundBackend, source: Source, created_at: int | None = None, missed: int | None = None
) -> dict[str, Any]:
    return {
        "id": model.id,
        "origin": backend.name,
        "source": source,
        "aliases": [],
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "capabilities": sorted(set(model.capabilities)),
        "quality": {},
        "fallbacks": [],
        "created_at": created_at,
        "parent": model.parent,
        "missed": missed,
    }


def _deployment_row(model: FoundModel, backend: FoundBackend, source: Source) -> dict[str, Any]:
    return {
        "id": f"{model.id}@{backend.name}",
        "source": source,
        "model": model.id,
        "origin": backend.name,
        "backend": backend.name,
        "upstream_model": model.id,
        "price_input": model.price.input,
        "price_cached_input": model.price.cached_input,
        "price_output": model.price.output,
        "weight": 1.0,
        "priority": 0,
    }
