"""`/agents/*`: a Mac joins by itself, says that it lives, and returns by itself."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError

from router.gateway import CatalogReader
from router.registry.manifest import web_address
from router.registry.roster import AgentRoster
from router.registry.rows import Announcement
from router.registry.store import StoreError
from shared.asgi import Scope, header, read_body
from shared.errors import Forbidden, InvalidRequest, NotFound, Overloaded, Unauthenticated, UnsupportedMediaType

__all__ = ["Heartbeat", "Registration", "agents_router", "bearer_is", "in_registry", "read_json"]

_LIMIT = 1024 * 1024
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

Token = Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=256)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=1, lt=2**53)]


class AgentModel(BaseModel):
    """A model that an agent serves."""

    id: Token
    context_length: Count | None = None
    max_output_tokens: Count | None = None
    capabilities: list[Token] = []
    default: bool = False
    loaded: bool = False


class Registration(BaseModel):
    """What an agent says of itself; keys that this version does not know are ignored."""

    id: Token
    name: Words
    url: Annotated[str, AfterValidator(web_address)]
    version: Words | None = None
    device: Words | None = None
    models: Annotated[list[AgentModel], Field(max_length=1000)] = []


class Heartbeat(BaseModel):
    """An agent lives, with so many requests waiting and under way."""

    id: Token
    queued: Annotated[int, Field(ge=0, lt=2**31)] = 0
    running: Annotated[int, Field(ge=0, lt=2**31)] = 0


def agents_router(
    roster: Callable[[Scope], AgentRoster], catalog: Callable[[Scope], CatalogReader], token: str | None
) -> APIRouter:
    """Return the routes.

    Args:
        roster: Finds the roster that a request's application has opened.
        catalog: Finds the catalog, which is refreshed when an agent has joined.
        token: What agents prove themselves with; None lets in those of this machine alone.
    """
    router = APIRouter(prefix="/agents", tags=["agents"])

    @router.post("/register", openapi_extra=_body(Registration))
    async def register(request: Request) -> dict[str, Any]:
        """Register an agent, or tell the router what has changed on it."""
        _admit(request, token)
        told = await read_json(request, Registration)
        announcement = Announcement(
            id=told.id,
            name=told.name,
            url=told.url,
            version=told.version,
            device=told.device,
            models=tuple(model.model_dump() for model in told.models),
        )
        people = roster(request.scope)
        await in_registry(people.register, announcement)
        await catalog(request.scope).refresh()
        return {"agent_id": told.id, "heartbeat_interval_s": people.interval}

    @router.post("/heartbeat", openapi_extra=_body(Heartbeat))
    async def heartbeat(request: Request) -> dict[str, str]:
        """Say that an agent lives; `agent_not_found` asks it to register again."""
        _admit(request, token)
        told = await read_json(request, Heartbeat)
        if not await in_registry(roster(request.scope).beat, told.id, told.queued, told.running):
            error = NotFound(f"No agent {told.id!r} is registered; register it again.", param="id")
            error.code = "agent_not_found"
            raise error
        return {"status": "ok"}

    return router


def _admit(request: Request, token: str | None) -> None:
    """Let in who knows the token; without one, who calls from this machine and through no proxy."""
    if token is not None:
        if not bearer_is(request, token):
            raise Unauthenticated("The agent token is missing or wrong; set LOCAL_AGENT_TOKEN to ROUTER_AGENT_TOKEN.")
        return
    forwarded = any(header(request.scope, name) for name in (b"forwarded", b"x-forwarded-for", b"x-real-ip"))
    if forwarded or not _is_loopback(request.client.host if request.client else None):
        error = Forbidden(
            "Agents on other machines need a token: set ROUTER_AGENT_TOKEN here and LOCAL_AGENT_TOKEN there."
        )
        error.code = "agent_token_required"
        raise error


def _is_loopback(host: str | None) -> bool:
    if host is None:  # a Unix socket
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


# --- shared with the admin routes -----------------------------------------------------------------


def bearer_is(request: Request, secret: str) -> bool:
    """Whether the request carries this very secret, compared in constant time."""
    scheme, _, given = (header(request.scope, b"authorization") or "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode("utf-8", "replace"))


async def read_json(request: Request, model: type[M], limit: int = _LIMIT) -> M:
    """Read a small JSON body as a model.

    Another content type is refused: a web page may send those across origins without being asked.

    Raises:
        UnsupportedMediaType: The body is not declared as JSON.
        PayloadTooLarge: It exceeds the limit.
        InvalidRequest: It is not what the model asks for; `param` names the field.
    """
    kind = (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType("The content type must be application/json.")
    body = await read_body(request.scope, request.receive, limit)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(step) for step in first["loc"]) or None
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{f'Invalid {param!r}' if param else 'Invalid body'}: {reason}.", param=param) from error


async def in_registry(call: Callable[..., T], *arguments: Any) -> T:
    """Run a synchronous registry call on a thread.

    Raises:
        Overloaded: The registry does not answer now.
    """
    try:
        return await asyncio.to_thread(call, *arguments)
    except StoreError as error:
        raise Overloaded(f"The registry does not answer; try again. {error}", retry_after=2) from error


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
