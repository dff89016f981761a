"""Agents in the tables: pieces that work inside a caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from router.registry.build import same_url
from router.registry.rows import Announcement, Beat, FoundBackend, FoundModel, Row
from router.registry.schema import agents
from router.types import Price

__all__ = ["agent_backend", "agent_models", "choose_backend", "displaced", "upsert_agent", "write_beats"]


def choose_backend(connection: Connection, announcement: Announcement) -> str:
    """Return the backend's name for an agent: its old one, or `agent-<slug of its name>`.

    Two living agents may share a name; the later one gets a number.
    """
    known = {row["id"]: row for row in _rows(connection)}
    slug = re.sub(r"[^a-z0-9]+", "-", announcement.name.lower()).strip("-")[:60] or "mac"
    stem = f"agent-{slug}"
    taken = {row["backend"] for row in known.values() if row["id"] != announcement.id and not row["stale"]}
    mine = known.get(announcement.id)
    if mine is not None and re.fullmatch(rf"{re.escape(stem)}(-\d+)?", mine["backend"]):
        return str(mine["backend"])
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def displaced(connection: Connection, announcement: Announcement, backend: str) -> list[Row]:
    """Return the rows that an announcement replaces: the same agent, place or backend name."""
    url = same_url(announcement.url)
    return [
        row
        for row in _rows(connection)
        if row["id"] == announcement.id or same_url(row["url"]) == url or row["backend"] == backend
    ]


def upsert_agent(
    connection: Connection, announcement: Announcement, backend: str, old: Sequence[Row], now: int
) -> None:
    """Write an agent's row in place of `old`."""
    since = min((row["registered_at"] for row in old if row["id"] == announcement.id), default=now)
    connection.execute(delete(agents).where(agents.c.id.in_([row["id"] for row in old])))
    connection.execute(
        insert(agents).values(
            id=announcement.id,
            name=announcement.name,
            url=announcement.url.rstrip("/"),
            backend=backend,
            version=announcement.version,
            device=announcement.device,
            models=list(announcement.models),
            stale=False,
            registered_at=since,
            last_seen=now,
        )
    )


def agent_backend(announcement: Announcement, name: str) -> FoundBackend:
    """Return the backend that an agent is."""
    talks = any("messages" in (model.get("capabilities") or ()) for model in announcement.models)
    return FoundBackend(name, "local_agent", announcement.url.rstrip("/"), "local", accepts_messages=talks)


def agent_models(announcement: Announcement) -> list[FoundModel]:
    """Return the models that an agent serves; they cost nothing by the token."""
    free = Price(Decimal(0), Decimal(0), Decimal(0))
    return [
        FoundModel(
            id=model["id"],
            context_length=model.get("context_length"),
            max_output_tokens=model.get("max_output_tokens"),
            capabilities=tuple(model.get("capabilities") or ()),
            price=free,
        )
        for model in announcement.models
    ]


def write_beats(connection: Connection, beats: Sequence[Beat]) -> bool:
    """Write what agents last said of themselves; return whether a stale one has returned."""
    returned = False
    for beat in beats:
        back = update(agents).where(agents.c.id == beat.id, agents.c.stale.is_(True)).values(stale=False)
        returned = connection.execute(back).rowcount > 0 or returned
        connection.execute(
            update(agents)
            .where(agents.c.id == beat.id)
            .values(last_seen=beat.seen_at, queued=beat.queued, running=beat.running)
        )
    return returned


def _rows(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(select(agents)).mappings()]
