"""`POST /v1/responses`, and `GET` and `DELETE` of what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from msgspec import structs

from router.api.deps import Services, caller_of, services_of
from router.api.respond import Resource
from router.interfaces import Front
from router.routing.features import extract_features, strictest
from router.routing.filters import privacy
from router.routing.plan import lineup
from router.types import (
    Caller,
    Constraints,
    Deployment,
    DeploymentHealth,
    InferenceRequest,
    Model,
    Outcome,
    Policy,
    Privacy,
)
from router.wire.openai import openai_error
from router.wire.responses.echo import item_owner, response_id
from router.wire.responses.native import EXPANDED
from router.wire.responses.parse import HOSTED_TOOLS, error_event, parse_responses
from router.wire.responses.turns import (
    Following,
    Kept,
    Turn,
    ended_items,
    final_response,
    following,
    foreign_dropped,
    item_id,
    keep,
    listed,
    read_turn,
    sealed,
    sealed_in,
    under_way,
    unsealed,
    with_items,
    with_output,
)
from shared.errors import InvalidRequest, NotFound, PreviousResponseNotFound

__all__ = ["RESPONSES", "responses_router"]

_NATIVE = frozenset({"native_responses"})
_REFERS = (
    b'"previous_response_id"',
    b'"conversation"',
    b'"encrypted_content"',
    b'"item_reference"',
    b'"reasoning"',
    b'"id"',
)
"""A body without any of these refers to nothing that is kept."""
_WELL = DeploymentHealth()
_DROPPED = "input reasoning dropped"


# --- what a request refers to -------------------------------------------------------------------


class _Completion:
    """Completes one request with what is kept.

    Args:
        services: What the router is made of.
        request: What the client sent.
    """

    def __init__(self, services: Services, request: InferenceRequest) -> None:
        self._services = services
        self._request = self._given = request
        self._caller = request.caller.id
        self._alone = True
        self._turn = read_turn(request)
        self._items: list[msgspec.Raw] = self._turn.items
        self._changes: list[str] = []
        self._models = _models(services, request)

    async def run(self) -> InferenceRequest:
        before = await self._follow()
        await self._converse()
        await self._resolve()
        await self._unseal()
        request = self._request
        if self._items is not self._turn.items:
            request = with_items(request, self._items, *self._changes)
        if request is self._given and before is None:
            return request
        return following(request, self._turn, before, alone=self._alone)

    async def _follow(self) -> tuple[str, Kept] | None:
        """Go where the response is that the request follows, or take its conversation along."""
        name = self._turn.previous
        if name is None:
            return None
        store = self._services.responses
        kept = await store.get(self._caller, name)
        if kept is None:
            self._only_native(
                PreviousResponseNotFound, f"Previous response with id '{name}' not found.", "previous_response_id"
            )
            return None
        self._tighten(kept)
        if kept.deployment is not None and self._there(kept.deployment):
            self._pin(kept.deployment)
            return name, kept
        said = await store.conversation(self._caller, kept) if kept.whole else None
        if said is None:
            raise PreviousResponseNotFound(
                f"Previous response with id '{name}' not found.", param="previous_response_id"
            )
        said += kept.output
        lost = {*sealed(said), *unsealed(said)} if kept.deployment is not None else unsealed(said)
        self._items = [*foreign_dropped(said, lost), *self._items]
        self._changes += [EXPANDED, *([_DROPPED] if lost else [])]
        return name, kept

    async def _converse(self) -> None:
        """Go where the conversation is that the request belongs to, if that is known."""
        name = self._turn.conversation
        if name is not None and self._request.pin is None:
            makers = await self._services.responses.makers(self._caller, [name])
            if name in makers:
                self._pin(makers[name])

    async def _resolve(self) -> None:
        """Put items where they are only named."""
        if self._request.pin is not None:
            return
        for index, name in structs.replace(self._turn, items=self._items).references:
            found = next((item for item in self._items[:index] if item_id(item) == name), None)
            owner = item_owner(name)
            if found is None and owner is not None:
                kept = await self._services.responses.get(self._caller, owner)
                if kept is not None:
                    self._tighten(kept)
                    found = next((item for item in kept.output if item_id(item) == name), None)
            if found is None:
                self._only_native(InvalidRequest, f"Item with id '{name}' not found.", "input")
                return
            self._items = [*self._items[:index], found, *self._items[index + 1 :]]

    async def _unseal(self) -> None:
        """Go where the reasoning was made that only its maker can read, or leave it out."""
        contents = sealed(self._items)
        makers = await self._services.responses.makers(self._caller, [*contents.values()])
        known = [makers[content] for content in contents.values() if content in makers]
        if known and self._request.pin is None and self._there(known[-1]):
            self._pin(known[-1])
        pin = self._request.pin
        lost = {at for at, content in contents.items() if makers.get(content, pin) != pin}
        self._alone = all(pin is not None and makers.get(content) == pin for content in contents.values())
        lost |= {at for at in unsealed(self._items) if item_owner(item_id(self._items[at]) or "") is not None}
        if lost:
            self._items = foreign_dropped(self._items, lost)
            self._changes.append(_DROPPED)

    def _tighten(self, kept: Kept) -> None:
        """Let what is kept travel no further than it was to when it was said."""
        wishes = self._request.wishes
        tight = replace(wishes, privacy=strictest(wishes.privacy, kept.privacy))
        self._request = structs.replace(self._request, wishes=tight)

    def _pin(self, deployment: str) -> None:
        self._request = structs.replace(self._request, pin=deployment, needs=self._request.needs | _NATIVE)

    def _only_native(self, kind: type[InvalidRequest], message: str, param: str) -> None:
        """Leave it to a backend that may know what the router does not.

        Raises:
            InvalidRequest: There is no such backend.
        """
        if not any(_native(model) for model in self._models):
            raise kind(message, param=param)
        self._request = structs.replace(self._request, needs=self._request.needs | _NATIVE)

    def _there(self, deployment: str) -> bool:
        """Return whether a deployment may answer this request, as far as can be seen."""
        found = next((d for model in self._models for d in model.deployments if d.id == deployment), None)
        return found is not None and _well(self._services, found)


def _native(model: Model) -> bool:
    """Return whether some backend may have the API itself."""
    return "responses" in model.capabilities or any("responses" in d.backend.endpoints for d in model.deployments)


def _models(services: Services, request: InferenceRequest) -> Sequence[Model]:
    catalog = services.catalog.current
    target = catalog.resolve(request.model)
    if target is None:
        return ()
    models, others = lineup(catalog, target, request.wishes.fallback)
    return [*models, *others]


async def _prepare(services: Services, request: InferenceRequest) -> InferenceRequest:
    if any(mark in request.body for mark in _REFERS):
        request = await _Completion(services, request).run()
    if HOSTED_TOOLS in request.needs:
        needs = request.needs - {HOSTED_TOOLS}
        request = structs.replace(request, needs=needs | _NATIVE if _hosted(services, request) else needs)
    return request


def _hosted(services: Services, request: InferenceRequest) -> bool:
    """Return whether a backend that may answer now has the tools that the API hosts."""
    features = extract_features(request, Constraints(privacy=_privacy(services, request)))
    return any(
        ("responses" in model.capabilities or "responses" in deployment.backend.endpoints)
        and privacy(features, model, deployment, _WELL) is None
        and _well(services, deployment)
        for model in _models(services, request)
        for deployment in model.deployments
    )


def _well(services: Services, deployment: Deployment) -> bool:
    state = services.health.state(deployment.id)
    return not deployment.backend.stale and (state is None or state.available)


# --- what is kept of an answer ------------------------------------------------------------------


class _Keeper:
    """Keeps what the turns that follow may refer to; a `Watcher`.

    Args:
        services: What the router is made of.
        request: What was asked.
    """

    def __init__(self, services: Services, request: InferenceRequest) -> None:
        self._services = services
        self._request = request
        self._last = b""
        self._sealed: list[str] = []
        self._items: list[msgspec.Raw] = []

    def see(self, data: bytes) -> None:
        """Look at a whole answer, or at the next whole events of a stream."""
        self._last = data
        self._sealed += sealed_in(data, stream=self._request.stream)
        if self._request.stream:
            self._items += ended_items(data)

    async def finish(self, outcome: Outcome) -> None:
        """Keep the response before its end goes out, so that a turn that follows at once finds it."""
        store, request = self._services.responses, self._request
        caller = request.caller.id
        deployment = None if outcome.deployment is None else outcome.deployment.id
        if self._sealed and deployment is not None:
            await store.note_maker(caller, self._sealed, deployment, alone=_alone(request))
        if outcome.error is not None or (ended := final_response(self._last, stream=request.stream)) is None:
            return
        turn, before = _asked(request)
        if turn.conversation is not None and deployment is not None:
            await store.note_maker(caller, [turn.conversation], deployment, alone=False)
        if turn.store:
            name, response = ended[0], with_output(ended[1], self._items)
            native = None if name == response_id(request.id) else deployment
            reach = _privacy(self._services, request)
            kept = keep(turn, response, before, native, reach)
            await store.put(caller, name, kept, local=reach == "local")


def _asked(request: InferenceRequest) -> tuple[Turn, tuple[str, Kept] | None]:
    if isinstance(request, Following) and request.turn is not None:
        return request.turn, request.before
    return read_turn(request), None


def _alone(request: InferenceRequest) -> bool:
    """Return whether all that is sealed in a request was made by who answered it."""
    return request.alone if isinstance(request, Following) else not read_turn(request).sealed


def _privacy(services: Services, request: InferenceRequest) -> Privacy:
    """Return how far the request may travel, by its own wish and its policy's constraint."""
    catalog = services.catalog.current
    target = catalog.resolve(request.model)
    policy = catalog.policies.get(request.wishes.policy or "") or (target if isinstance(target, Policy) else None)
    return strictest(request.wishes.privacy, policy.constraints.privacy if policy else "any")


def _watch(services: Services, request: InferenceRequest) -> _Keeper | None:
    return _Keeper(services, request) if services.responses.keeps else None


RESPONSES = Resource(Front(parse_responses, openai_error, error_event), _prepare, _watch)


# --- reading and deleting -----------------------------------------------------------------------


def responses_router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/responses", tags=["responses"])

    @routes.get("/{name}")
    async def retrieve_response(request: Request, name: str, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
        """Return a response that was stored."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("Only responses made in the background can be streamed again.", param="stream")
        kept = await _kept(request, caller, name)
        if under_way(bytes(kept.response)):
            raise InvalidRequest(f"Response '{name}' is made in the background by its backend: only that can tell it.")
        return Response(bytes(kept.response), media_type="application/json")

    @routes.get("/{name}/input_items")
    async def list_input_items(request: Request, name: str, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
        """List what a response was made of, those of the turns before included."""
        kept = await _kept(request, caller, name)
        items = await services_of(request.scope).responses.conversation(caller.id, kept)
        page = listed(name, kept.items if items is None else items, request.query_params)
        return Response(page, media_type="application/json")

    @routes.delete("/{name}")
    async def delete_response(
        request: Request, name: str, caller: Annotated[Caller, Depends(caller_of)]
    ) -> dict[str, Any]:
        """Forget a response."""
        if not await services_of(request.scope).responses.delete(caller.id, name):
            raise NotFound(f"Response with id '{name}' not found.")
        return {"id": name, "object": "response", "deleted": True}

    return routes


async def _kept(request: Request, caller: Caller, name: str) -> Kept:
    kept = await services_of(request.scope).responses.get(caller.id, name)
    if kept is None:
        raise NotFound(f"Response with id '{name}' not found.")
    return kept
