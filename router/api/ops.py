"""`/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from router.api.deps import services_of

__all__ = ["ops_router"]


def ops_router() -> APIRouter:
    """Return the routes; none of them asks for a key."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process is alive."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        """Say whether requests can be answered, and what is missing.

        A part that is away but not needed makes the router `degraded`, with status 200: taking
        every router out of rotation because Redis is away would turn a slow cache into an outage.
        One that has been told to stop is `leaving`, with status 503, while it still answers.
        """
        services = services_of(request.scope)
        checks = _checks(services.catalog.current, services.catalog.problem, services.state.available)
        degraded = any(check["status"] != "ok" for check in checks.values())
        if services.presence.leaving:
            return JSONResponse({"status": "leaving", "checks": checks}, 503)
        return JSONResponse({"status": "degraded" if degraded else "ok", "checks": checks})

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Return the Prometheus metrics."""
        return Response(generate_latest(services_of(request.scope).metrics), media_type=CONTENT_TYPE_LATEST)

    return routes


def _checks(catalog: Any, problem: str | None, redis: bool) -> dict[str, dict[str, Any]]:
    deployments = sum(len(model.deployments) for model in catalog.models.values())
    registry = {"status": "ok", "version": catalog.version, "models": len(catalog.models), "deployments": deployments}
    if problem:
        registry |= {"status": "degraded", "detail": problem}
    elif not deployments:
        registry |= {"status": "degraded", "detail": "no model is registered yet"}
    state = {"status": "ok"} if redis else {"status": "degraded", "detail": "Redis is away: the cache is off"}
    return {"registry": registry, "redis": state}
