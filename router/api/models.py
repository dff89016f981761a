"""`GET /v1/models` and `/v1/models/{id}`: what this caller may ask for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from router.admission import may_use
from router.api.deps import caller_of, services_of
from router.types import Caller, Model, Policy
from shared.errors import ModelNotFound

__all__ = ["models_router"]


def models_router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["models"])

    @routes.get("/models")
    async def list_models(request: Request, caller: Annotated[Caller, Depends(caller_of)]) -> dict[str, Any]:
        """List the models and policies that this key may use."""
        catalog = services_of(request.scope).catalog.current
        entries = [_model(model) for model in catalog.models.values() if may_use(caller, model.id)]
        entries += [_policy(policy) for policy in catalog.policies.values() if may_use(caller, policy.name)]
        return {"object": "list", "data": entries}

    @routes.get("/models/{model_id:path}")
    async def retrieve_model(
        request: Request, model_id: str, caller: Annotated[Caller, Depends(caller_of)]
    ) -> dict[str, Any]:
        """Return one model or policy, by id or alias; ids may hold slashes."""
        catalog = services_of(request.scope).catalog.current
        found = catalog.resolve(model_id)
        if found is None or not may_use(caller, model_id):
            raise ModelNotFound(f"The model {model_id!r} does not exist.", param="model")
        return _policy(found) if isinstance(found, Policy) else _model(found)

    return routes


def _model(model: Model) -> dict[str, Any]:
    backends = [deployment.backend for deployment in model.deployments]
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": backends[0].name if backends else "router",
        "aliases": list(model.aliases),
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "capabilities": sorted(model.capabilities),
        "tiers": sorted({backend.tier for backend in backends}),
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {"id": policy.name, "object": "model", "created": 0, "owned_by": "router", "policy": True}
