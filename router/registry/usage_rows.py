"""One usage row: made from an outcome, kept as a line of JSON, inserted in the order of the columns."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from router.registry import schema
from router.types import Attempt, Outcome

__all__ = ["UsageRow", "insert_rows", "read_row", "usage_row", "write_row"]

_LONGEST_NAME = 256
# 32 rows of 25 values: SQLite before 3.32 takes 999 values in one statement.
_ROWS_AT_ONCE = 32


class UsageRow(Struct, frozen=True, gc=False):
    """A row of the table `usage`: its fields are the columns, in their order.

    Money is decimal text. A field without a value is None, which the database refuses where the column needs
    one: a journal may be another version's.
    """

    request_id: str
    decision_id: str | None = None
    caller: str | None = None
    caller_name: str | None = None
    endpoint: str | None = None
    asked: str | None = None
    policy: str | None = None
    model: str | None = None
    deployment: str | None = None
    backend: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: str | None = None
    cost_usd: str | None = None
    status: int | None = None
    error: str | None = None
    stream: bool | None = None
    cache: str | None = None
    attempts: tuple[Attempt, ...] | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    overhead_ms: float | None = None
    created_at: int | None = None


write_row = msgspec.json.Encoder().encode
"""Return a row as one line of JSON, without its end."""

read_row = msgspec.json.Decoder(UsageRow).decode
"""Return the row that a line holds.

Raises:
    msgspec.ValidationError: It is JSON and no row.
    msgspec.DecodeError: It is no JSON.
"""

_COLUMNS = UsageRow.__struct_fields__
_STREAM = _COLUMNS.index("stream") - len(_COLUMNS)
_ATTEMPTS = _COLUMNS.index("attempts") - len(_COLUMNS)
_PLACES = f"({','.join('?' * len(_COLUMNS))})"


def usage_row(outcome: Outcome, created_at: int) -> UsageRow:
    """Return an outcome as a row.

    Args:
        outcome: How the request ended.
        created_at: Milliseconds since the epoch.
    """
    usage, place, caller, cost = outcome.usage, outcome.deployment, outcome.caller, outcome.cost_usd
    if place is None:
        model = deployment = backend = None
    else:
        model, deployment, backend = place.model, place.id, place.backend.name
    if usage is None:
        prompt = completion = cached = reasoning = source = None
    else:
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached, reasoning, source = usage.cached_tokens, usage.reasoning_tokens, usage.source
    # By position: a struct of so many fields takes twice as long by name.
    return UsageRow(
        outcome.request_id,
        outcome.decision_id,
        caller.id,
        caller.name,
        outcome.endpoint,
        _storable(outcome.asked),
        outcome.policy,
        model,
        deployment,
        backend,
        prompt,
        completion,
        cached,
        reasoning,
        source,
        None if cost is None else format(cost, "f"),
        outcome.status,
        outcome.error,
        outcome.stream,
        outcome.cache,
        outcome.attempts,
        outcome.first_token_ms,
        outcome.duration_ms,
        outcome.overhead_ms,
        created_at,
    )


def _storable(name: str) -> str:
    """Return what a client called a model, without what a database cannot hold and without end."""
    if name.isascii() and len(name) <= _LONGEST_NAME and "\0" not in name:
        return name
    return name[:_LONGEST_NAME].encode("utf-8", "replace").decode().replace("\0", "?")


def insert_rows(connection: Connection, rows: Sequence[UsageRow]) -> None:
    """Insert rows in the connection's transaction; a request that is there already stays as it is."""
    if connection.dialect.name == "sqlite":
        _insert_quickly(connection, rows)
        return
    values = [_named(row) for row in rows]
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - its drivers take two megabytes, loaded or not used

    connection.execute(postgresql.insert(schema.usage).on_conflict_do_nothing(), values)


def _insert_quickly(connection: Connection, rows: Sequence[UsageRow]) -> None:
    """Hand SQLite's driver whole groups of rows.

    The driver lets go of the interpreter once for each statement, and the request path waits for it to come
    back: one statement for many rows disturbs it least, and is the cheapest as well.
    """
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        group = rows[start : start + _ROWS_AT_ONCE]
        values: list[Any] = []
        for row in group:
            values += msgspec.structs.astuple(row)
            values[_STREAM] = None if row.stream is None else int(row.stream)
            values[_ATTEMPTS] = msgspec.json.encode(row.attempts).decode()
        # Only a second row of the same request is ignored; a value that is missing is an error.
        connection.exec_driver_sql(
            f"INSERT INTO usage ({','.join(_COLUMNS)}) VALUES {','.join([_PLACES] * len(group))}"  # noqa: S608
            " ON CONFLICT DO NOTHING",
            tuple(values),
        )


def _named(row: UsageRow) -> dict[str, Any]:
    values = msgspec.structs.asdict(row)
    values["cost_usd"] = None if row.cost_usd is None else Decimal(row.cost_usd)
    values["attempts"] = msgspec.to_builtins(row.attempts)
    return values
