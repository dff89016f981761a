"""`GET /v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from local_agent.api.deps import check_model, model_entries, services_of

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(request: Request) -> dict[str, Any]:
    """List the model that is served."""
    return {"object": "list", "data": model_entries(services_of(request))}


@router.get("/{name:path}")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """Describe one model."""
    services = services_of(request)
    check_model(services, name)
    return model_entries(services)[0]
