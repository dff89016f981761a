"""Health, readiness and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from local_agent.api.deps import services_of
from local_agent.types import Phase

__all__ = ["router"]

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the web process is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "No model is loaded, or its worker is being replaced."}})
async def readyz(request: Request) -> JSONResponse:
    """Say whether requests are served, and what is going on."""
    services = services_of(request)
    status = services.supervisor.status()
    progress: dict[str, Any] | None = None
    if status.progress_total and not status.ready:
        share = round(status.progress_done / status.progress_total, 4)
        unit = "bytes" if status.phase is Phase.DOWNLOADING else "tensors"
        progress = {"done": status.progress_done, "total": status.progress_total, "fraction": share, "unit": unit}
    model = status.model
    body = {
        "status": "ready" if status.ready else "unavailable",
        "phase": status.phase.value,
        "progress": progress,
        "device": model.device if model else None,
        "model": model.id if model else None,
        "format": model.dtype if model else None,
        "requested_model": services.requested_model,
        "fallback_reason": model.fallback_reason if model else None,
        "context_length": model.context_length if model else None,
        "restarts": status.restarts,
        "last_error": status.last_error,
        "worker_pid": status.worker_pid,
        "queue": {"queued": status.queued, "running": status.running, "limit": status.queue_limit},
        "version": services.version,
    }
    return JSONResponse(body, status_code=200 if status.ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return Prometheus metrics."""
    return Response(services_of(request).metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
