"""What every route shares: the services, the caller, the error answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from router.admission import Doorkeeper
from router.api.methods import allowed_methods
from router.delivery.desk import DeliveryDesk
from router.delivery.pulse import Pulse
from router.gateway import PATIENCE, CatalogReader, Gateway
from router.health import HealthBoard
from router.interfaces import StateStore
from router.outbox import Outbox
from router.registry.roster import AgentRoster
from router.registry.store import RegistryStore
from router.state.responses import ResponseStore
from router.types import Caller
from router.wire.openai import openai_error
from shared.asgi import Scope
from shared.errors import InvalidRequest, MethodNotAllowed, NotFound, Overloaded, ServiceError, Unauthenticated
from shared.ids import IdSource
from shared.logs import AccessLog

__all__ = ["Presence", "Services", "Shape", "add_error_handlers", "caller_of", "identify", "services_of"]

Shape = Callable[[Scope], Callable[[ServiceError], tuple[int, bytes]]]
"""How errors are told to the clients of a request's route: as a status and a body."""


class Presence:
    """Whether this process is there for new clients."""

    leaving = False
    """Whether it has been told to stop: load balancers are to look elsewhere, connections to end with their answer."""


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
    presence: Presence = field(default_factory=Presence)
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
        Overloaded: Whether the key is valid cannot be told now.
    """
    authorization = headers.get("authorization")
    if authorization is None and (key := headers.get("x-api-key") or headers.get("api-key")):
        authorization = f"Bearer {key}"
    try:
        return services.doorkeeper.identify(authorization, services.catalog.current)
    except Unauthenticated:
        if authorization is None:
            raise
        looked = await services.catalog.refresh(PATIENCE)
        try:
            return services.doorkeeper.identify(authorization, services.catalog.current)
        except Unauthenticated:
            if looked:
                raise
            raise Overloaded(
                "The API key cannot be checked: the router's registry does not answer. Try again.", retry_after=2
            ) from None


async def caller_of(request: Request) -> Caller:
    """FastAPI dependency: who calls."""
    return await identify(services_of(request.scope), request.headers)


def _http_error(request: Request, error: HTTPException) -> ServiceError:
    """Return what the framework's own errors mean."""
    path, method = request.url.path, request.method
    if error.status_code == 404:
        return NotFound(f"There is no route {method} {path}.")
    if error.status_code == 405:
        return MethodNotAllowed(f"The route {path} does not allow {method}.")
    invalid = InvalidRequest(str(error.detail))
    invalid.status = error.status_code
    return invalid


def _validation_error(error: RequestValidationError) -> ServiceError:
    first = error.errors()[0]
    path = [part for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".") or None
    message = f"Invalid value for '{param}': {first['msg']}." if param else f"{first['msg']}."
    return InvalidRequest(message, param=param)


def _openai(_scope: Scope) -> Callable[[ServiceError], tuple[int, bytes]]:
    return openai_error


def add_error_handlers(app: FastAPI, shape: Shape = _openai) -> None:
    """Make every error of an app JSON that its clients expect, those of the framework too.

    Args:
        app: The application.
        shape: Returns how errors are told to the clients of a request's route.
    """

    def answer(request: Request, error: ServiceError) -> Response:
        status, body = shape(request.scope)(error)
        return Response(body, status, error.headers(), "application/json")

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return answer(request, error)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != 405:
            return answer(request, _http_error(request, error))
        allowed = {"allow": allowed_methods(app.router.routes, request.scope)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        refused = answer(request, _http_error(request, error))
        refused.headers.update(allowed)
        return refused

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, _validation_error(error))

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
