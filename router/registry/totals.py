"""Sums over the usage table."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from sqlalchemy import Connection, case, func, select

from router.registry.rows import UsageTotal
from router.registry.schema import usage

__all__ = ["usage_totals"]


def usage_totals(connection: Connection, since: int | None = None) -> tuple[UsageTotal, ...]:
    """Return the totals of each caller and model, the costliest first.

    Databases do not add decimal text, so rows of equal cost are counted there and the exact sum
    is made here.

    Args:
        connection: A connection in a transaction.
        since: Only requests from this moment on, in milliseconds since the epoch.
    """
    model = func.coalesce(usage.c.model, usage.c.asked)
    query = select(
        usage.c.caller,
        func.max(usage.c.caller_name).label("caller_name"),
        model.label("model"),
        usage.c.cost_usd,
        func.count().label("requests"),
        func.sum(case((usage.c.status >= 400, 1), else_=0)).label("errors"),
        func.coalesce(func.sum(usage.c.prompt_tokens), 0).label("prompt_tokens"),
        func.coalesce(func.sum(usage.c.completion_tokens), 0).label("completion_tokens"),
        func.sum(case((usage.c.prompt_tokens.is_not(None), 1), else_=0)).label("counted"),
    ).group_by(usage.c.caller, model, usage.c.cost_usd)
    if since is not None:
        query = query.where(usage.c.created_at >= since)
    totals: dict[tuple[str, str], UsageTotal] = {}
    for row in connection.execute(query):
        key = (row.caller, row.model)
        sofar = totals.get(key) or UsageTotal(row.caller, row.caller_name, row.model)
        totals[key] = replace(
            sofar,
            requests=sofar.requests + row.requests,
            errors=sofar.errors + int(row.errors),
            prompt_tokens=sofar.prompt_tokens + int(row.prompt_tokens),
            completion_tokens=sofar.completion_tokens + int(row.completion_tokens),
            cost_usd=sofar.cost_usd + (row.cost_usd or Decimal(0)) * row.requests,
            unpriced=sofar.unpriced + (int(row.counted) if row.cost_usd is None else 0),
        )
    return tuple(sorted(totals.values(), key=lambda total: (-total.cost_usd, -total.requests, total.caller)))
