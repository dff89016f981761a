"""`GET /v1/models` and `/v1/models/{id}`: what this caller may ask for, and how it is doing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from router.admission import may_use
from router.api.deps import caller_of, services_of
from router.interfaces import Health
from router.registry.snapshot import Catalog
from router.routing.filters import TIER_REACH
from router.types import Caller, Deployment, DeploymentHealth, Model, Policy
from shared.errors import ModelNotFound

__all__ = ["models_router"]

_UNTRIED = DeploymentHealth()
_Entry = dict[str, Any]


def models_router() -> APIRouter:
    """Return the routes. Clients that send `anthropic-version` get Anthropic's shapes."""
    routes = APIRouter(prefix="/v1", tags=["models"])

    @routes.get("/models")
    async def list_models(request: Request, caller: Annotated[Caller, Depends(caller_of)]) -> dict[str, Any]:
        """List the models and policies that this key may use."""
        services = services_of(request.scope)
        catalog, health = services.catalog.current, services.health.snapshot()
        entries = [_model(model, health) for model in catalog.models.values() if may_use(caller, model.id)]
        policies = [policy for policy in catalog.policies.values() if may_use(caller, policy.name)]
        entries += [_policy(policy, catalog, health) for policy in policies]
        return _listed([_anthropic(entry) for entry in entries]) if _asks_as_anthropic(request) else _list(entries)

    @routes.get("/models/{model_id:path}")
    async def retrieve_model(
        request: Request, model_id: str, caller: Annotated[Caller, Depends(caller_of)]
    ) -> dict[str, Any]:
        """Return one model or policy, by id or alias; ids may hold slashes."""
        services = services_of(request.scope)
        catalog, health = services.catalog.current, services.health.snapshot()
        found = catalog.resolve(model_id)
        if found is None or not may_use(caller, model_id):
            raise ModelNotFound(f"The model {model_id!r} does not exist.", param="model")
        entry = _policy(found, catalog, health) if isinstance(found, Policy) else _model(found, health)
        return _anthropic(entry) if _asks_as_anthropic(request) else entry

    return routes


def _asks_as_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _list(entries: Sequence[_Entry]) -> dict[str, Any]:
    return {"object": "list", "data": entries}


def _listed(entries: Sequence[_Entry]) -> dict[str, Any]:
    """Return Anthropic's list: all of it is its only page."""
    first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
    return {"data": entries, "has_more": False, "first_id": first, "last_id": last}


def _anthropic(entry: Mapping[str, Any]) -> _Entry:
    created = datetime.fromtimestamp(entry["created"], timezone.utc)
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": entry["context_length"],
        "max_tokens": entry["max_output_tokens"],
    }


def _model(model: Model, health: Health) -> _Entry:
    backends = [deployment.backend for deployment in model.deployments]
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": backends[0].name if backends else "router",
        "parent": model.parent,
        "aliases": list(model.aliases),
        **_context(model.context_length),
        "max_output_tokens": model.max_output_tokens,
        "capabilities": sorted(model.capabilities),
        "tiers": sorted({backend.tier for backend in backends}),
        **_availability(model.deployments, health),
    }


def _policy(policy: Policy, catalog: Catalog, health: Health) -> _Entry:
    """Return what is true of a policy: that of whatever it may choose."""
    members = catalog.members(policy)
    reach = TIER_REACH[policy.constraints.privacy]
    deployments = [place for model in members for place in model.deployments if place.backend.tier in reach]
    return {
        "id": policy.name,
        "object": "model",
        "created": 0,
        "owned_by": "router",
        "policy": True,
        **_context(_most(model.context_length for model in members)),
        "max_output_tokens": _most(model.max_output_tokens for model in members),
        "capabilities": sorted(frozenset[str]().union(*(model.capabilities for model in members))),
        "tiers": sorted({deployment.backend.tier for deployment in deployments}),
        **_availability(deployments, health),
    }


def _context(length: int | None) -> _Entry:
    """Return the context by the names that clients of other routers, and of vLLM, look for."""
    return {"context_length": length, "max_model_len": length}


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _availability(deployments: Sequence[Deployment], health: Health) -> _Entry:
    """Return whether anybody can answer now, and if not, why."""
    reasons = [_reason(deployment, health.get(deployment.id, _UNTRIED)) for deployment in deployments]
    available = reasons.count(None)
    told = dict.fromkeys(reason for reason in reasons if reason is not None)
    return {
        "available": available > 0,
        "reason": None if available else "; ".join(told) or "no deployment serves it",
        "deployments": {"total": len(reasons), "available": available},
    }


def _reason(deployment: Deployment, state: DeploymentHealth) -> str | None:
    if deployment.backend.stale:
        return "the agent has missed three heartbeats"
    return None if state.available else state.reason or "unavailable"
