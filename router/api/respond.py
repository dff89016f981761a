"""respond(): every data-plane endpoint's way from a call to its answer, whichever front it came through."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from router.accounting import Meter, log_fields
from router.api.client import Call, Client, Listener, answer_error
from router.api.deps import Services, identify
from router.api.once import KEY, early_head, order_of, play
from router.delivery.desk import DeliveryDesk
from router.delivery.numbering import between
from router.delivery.recording import Recording
from router.gateway import Answer
from router.interfaces import Front
from router.types import Completion, InferenceRequest, Outcome
from shared.errors import ServiceError

__all__ = ["Resource", "Watcher", "respond"]

_SSE = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx and its kin would hold a stream back.
    (b"x-accel-buffering", b"no"),
)


class _BrokenOff(Exception):
    """An answer that is no stream of events ends in the middle: only the end of the connection can tell."""


class Watcher(Protocol):
    """Sees an answer on its way to the client."""

    def see(self, data: bytes) -> None:
        """Look at a whole answer, or at the next whole events of a stream."""
        ...

    async def finish(self, outcome: Outcome) -> None:
        """Do what is to be done before the end of the answer goes out."""
        ...


class Resource(NamedTuple):
    """One endpoint of the data plane.

    Attributes:
        front: How its clients are spoken with.
        prepare: Completes a parsed request with what is kept of earlier ones; raises a `ServiceError`.
        watch: Returns who is to see the answer, or None.
    """

    front: Front
    prepare: Callable[[Services, InferenceRequest], Awaitable[InferenceRequest]] | None = None
    watch: Callable[[Services, InferenceRequest], Watcher | None] | None = None


async def respond(services: Services, call: Call, client: Client, log: dict[str, Any], resource: Resource) -> None:
    """Answer one request.

    Args:
        services: What the router is made of.
        call: The request.
        client: Where the answer goes.
        log: The fields of the access log line; what there is to say of the request joins them.
        resource: What was called.
    """
    front = resource.front
    try:
        caller = await identify(services, call.headers)
        request = front.parse(call.body, call.id, caller, call.headers)
        # What is no stream of events cannot be numbered, nor resumed in the middle.
        if call.headers.get(KEY) and services.desk is not None and (front.ping or not request.stream):
            await _once(services, services.desk, request, call, client, log, resource)
            return
        if resource.prepare is not None:
            request = await resource.prepare(services, request)
        meter = services.gateway.open(request, call.started)
        if not request.stream:
            await _tell(services, meter, client, log, resource)
            return
        vigil = services.pulse.watch(client, front.ping, lambda: (*_SSE, *meter.early_head()))
        try:
            await _tell(services, meter, client, log, resource)
        finally:
            services.pulse.leave(vigil)
    except _BrokenOff:
        client.abort()
    except ServiceError as error:
        log.setdefault("error", error.code)
        if client.begun:
            # A sign of life went out before anybody answered, and with it the status.
            await client.end(front.error_event(error))
        else:
            await answer_error(client, error, front)


async def _once(
    services: Services,
    desk: DeliveryDesk,
    request: InferenceRequest,
    call: Call,
    client: Client,
    log: dict[str, Any],
    resource: Resource,
) -> None:
    """Answer a request that is to be answered once, however often it is sent."""

    async def perform(recording: Recording) -> None:
        asked = request if resource.prepare is None else await resource.prepare(services, request)
        meter = services.gateway.open(asked, call.started)
        recording.early = meter.early_head()
        await _tell(services, meter, recording, log, resource)
        recording.keep, recording.private = meter.error is None, meter.privacy == "local"

    order = order_of(request, call)
    reader = desk.join(order, perform)
    vigil = None
    try:
        if request.stream:
            ping = between(resource.front.ping)
            vigil = services.pulse.watch(client, ping, lambda: (*_SSE, *early_head(reader)))
        await play(reader, client)
    finally:
        if vigil is not None:
            services.pulse.leave(vigil)
        if reader.again:
            log["replay"] = True
        desk.leave(order, reader)


async def _tell(services: Services, meter: Meter, client: Listener, log: dict[str, Any], resource: Resource) -> None:
    """Get the answer to an opened request, and hand it to a client."""
    request = meter.request
    answer = await services.gateway.handle(meter)
    try:
        watcher = None if resource.watch is None else resource.watch(services, request)
        if request.stream:
            await _stream(answer, client, log, resource.front, watcher)
        else:
            await _whole(answer, client, log, watcher)
    finally:
        if not answer.closed:
            await _close(answer, log, None)


async def _whole(answer: Answer, client: Listener, log: dict[str, Any], watcher: Watcher | None) -> None:
    (event,) = await answer.more()
    assert isinstance(event, Completion)
    headers = answer.meter.head(time.perf_counter())
    if watcher is not None:
        watcher.see(event.body)
    # Settled first: what a client has been answered is on the books, whatever happens to this process.
    await _close(answer, log, watcher)
    await client.answer(200, headers, event.body, event.content_type)


async def _stream(answer: Answer, client: Listener, log: dict[str, Any], front: Front, watcher: Watcher | None) -> None:
    events = all(name != b"content-type" for name, _ in answer.meter.notes)
    head = answer.meter.head(time.perf_counter())
    client.begin((*_SSE, *head) if events else head)
    deliver = client.push if watcher is None else _watched(watcher, client.push)
    try:
        while not answer.meter.complete:
            await answer.pump(deliver)
            if not answer.meter.complete:
                await client.drain()
    except ServiceError as error:
        if not events:
            await _close(answer, log, watcher)
            raise _BrokenOff from error
        # The status is out; the event tells the client that the answer is not whole.
        answer.last = front.error_event(error)
    else:
        if watcher is not None:
            watcher.see(answer.last)
    await _close(answer, log, watcher)
    await client.end(answer.last)


def _watched(watcher: Watcher, push: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    def deliver(data: bytes) -> bool:
        watcher.see(data)
        return push(data)

    return deliver


async def _close(answer: Answer, log: dict[str, Any], watcher: Watcher | None) -> None:
    outcome = await answer.close()
    if outcome is not None:
        log.update(log_fields(outcome))
        if watcher is not None:
            await watcher.finish(outcome)
