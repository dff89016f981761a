"""What every route shares: the services, the caller, the error answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from router.admission import Doorkeeper
from router.delivery.desk import DeliveryDesk
from router.delivery.pulse import Pulse
from router.gateway import CatalogReader, Gateway
from router.health import HealthBoard
from router.interfaces import StateStore
from router.outbox import Outbox
from router.registry.roster import AgentRoster
from router.registry.store import RegistryStore
from router.state.responses import ResponseStore
from router.types import Caller
from shared.asgi import Scope
from shared.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError, Unauthenticated
from shared.ids import IdSource
from shared.logs import AccessLog

__all__ = ["Services", "add_error_handlers", "caller_of", "identify", "services_of"]


@dataclass(frozen=True, slots=True)
class Services:
    """What the composition root hands to the routes."""

    gateway: Gateway
    catalog: CatalogReader
    doorkeeper: Doorkeeper
    health: HealthBoard
    state: StateStore
    metrics: CollectorRegistry
    store: RegistryStore
    roster: AgentRoster
    body_limit: int
    outbox: Outbox
    pulse: Pulse
    responses: ResponseStore
    desk: DeliveryDesk | None
    """Where requests with an `Idempotency-Key` are answered once; None: the header is ignored."""
    make_id: Callable[[], str] = field(default_factory=lambda: IdSource("req_").make)
    """Makes request ids."""
    access: AccessLog | None = None
    """Where access lines go; None: to the logger `router.access`."""


def services_of(scope: Scope) -> Services:
    """Return the services that the lifespan opened."""
    services: Services = scope["state"]["services"]
    return services


async def identify(services: Services, headers: Mapping[str, str]) -> Caller:
    """Return who calls; a key that the snapshot does not know may be news, so the registry is asked once.

    Args:
        services: What the router is made of.
        headers: The client's, names in lower case; the key is a bearer token or, as some clients send it, in
            `x-api-key` (or `api-key`).

    Raises:
        Unauthenticated: No key where one is needed, or one that is not valid.
    """
    authorization = headers.get("authorization")
    if authorization is None and (key := headers.get("x-api-key") or headers.get("api-key")):
        authorization = f"Bearer {key}"
    try:
        return services.doorkeeper.identify(authorization, services.catalog.current)
    except Unauthenticated:
        if authorization is None:
            raise
        await services.catalog.refresh()
        return services.doorkeeper.identify(authorization, services.catalog.current)


async def caller_of(request: Request) -> Caller:
    """FastAPI dependency: who calls."""
    return await identify(services_of(request.scope), request.headers)


def _answer(error: ServiceError) -> Response:
    return Response(error.json(), error.status, error.headers(), "application/json")


async def _on_service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return _answer(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    if error.status_code == 404:
        return _answer(NotFound(f"There is no route {method} {path}."))
    if error.status_code == 405:
        answer = _answer(MethodNotAllowed(f"The route {path} does not allow {method}."))
        answer.headers.update({k: v for k, v in (error.headers or {}).items() if k.lower() == "allow"})
        return answer
    invalid = InvalidRequest(str(error.detail))
    invalid.status = error.status_code
    return _answer(invalid)


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = [part for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".") or None
    message = f"Invalid value for '{param}': {first['msg']}." if param else f"{first['msg']}."
    return _answer(InvalidRequest(message, param=param))


def add_error_handlers(app: FastAPI) -> None:
    """Make every error of an app OpenAI JSON, those of the framework too."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
