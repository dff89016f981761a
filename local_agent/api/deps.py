"""What the routes work with, and how they come by it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import Request

from local_agent.metrics import Metrics
from local_agent.models import EMBEDDED_MODEL, find
from local_agent.supervisor import Supervisor
from shared.errors import ModelNotFound

__all__ = ["Services", "check_model", "model_entries", "services_of"]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may use.

    Attributes:
        supervisor: Runs generations.
        metrics: Counts them.
        requested_model: The configured model, which may not be the one that is served.
        body_limit: Largest request body in bytes.
        version: The agent's version.
        created: Unix time of the start.
    """

    supervisor: Supervisor
    metrics: Metrics
    requested_model: str
    body_limit: int
    version: str
    created: int = field(default_factory=lambda: int(time.time()))


def services_of(request: Request) -> Services:
    """Return the services of the application that a request belongs to."""
    return cast("Services", request.app.state.services)


def model_entries(services: Services) -> list[dict[str, Any]]:
    """Return the entries of `/v1/models`; before the model is loaded, the one that is being loaded."""
    status = services.supervisor.status()
    model = status.model
    spec = find(model.id if model else services.requested_model)
    context = model.context_length if model else spec.context_length
    return [
        {
            "id": spec.id,
            "object": "model",
            "created": services.created,
            "owned_by": "local_agent",
            "context_length": context,
            "max_output_tokens": model.max_output_tokens if model else context - 1,
            "capabilities": list(model.capabilities) if model else [],
            "default": True,
            "loaded": status.ready,
            "demo": spec.id == EMBEDDED_MODEL,
        }
    ]


def check_model(services: Services, name: str | None) -> str:
    """Return the id of the model that serves a request for `name` (None: whatever is served).

    Raises:
        ModelNotFound: Another model is served.
    """
    served = str(model_entries(services)[0]["id"])
    if name is None or name == served:
        return served
    status = services.supervisor.status()
    why = f" {status.model.fallback_reason}" if status.model and status.model.fallback_reason else ""
    raise ModelNotFound(f"The model {name!r} is not served here; this agent serves {served!r}.{why}", param="model")
