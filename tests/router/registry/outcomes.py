"""Outcomes for the tests of usage rows, and the table as it is in the file."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from router.types import Attempt, Backend, Caller, Deployment, Outcome
from shared.types import Usage


def outcome(request_id: str, **values: Any) -> Outcome:
    """Return an outcome of a request that was answered."""
    backend = Backend("b", "openai", "http://h", "external")
    given: dict[str, Any] = {
        "request_id": request_id,
        "decision_id": "dec_1",
        "caller": Caller("key_1", "a"),
        "endpoint": "chat",
        "asked": "auto",
        "policy": "auto",
        "deployment": Deployment("m@b", "m", backend, "up"),
        "status": 200,
        "error": None,
        "stream": True,
        "cache": "miss",
        "usage": Usage(10, 5, 2, 1),
        "cost_usd": Decimal("0.00000125"),
        "attempts": (Attempt("m@b", 1.0, 20.0),),
        "first_token_ms": 12.5,
        "duration_ms": 20.0,
        "overhead_ms": 0.4,
    }
    return Outcome(**{**given, **values})


def rows(place: Path | str) -> list[dict[str, Any]]:
    """Return the usage table as it is in the database."""
    query = "SELECT * FROM usage ORDER BY request_id"
    if isinstance(place, str):
        with psycopg.connect(place, row_factory=dict_row) as server:
            return server.execute(query).fetchall()
    connection = sqlite3.connect(place)
    try:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]
    finally:
        connection.close()


def ids(place: Path | str) -> list[str]:
    """Return the ids of the rows in the database."""
    return [row["request_id"] for row in rows(place)]
