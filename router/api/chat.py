"""`POST /v1/chat/completions`: no framework work on the request path, whichever front it came through."""

from __future__ import annotations

import time
from typing import Any

from router.accounting import log_fields
from router.api.client import AsgiClient, Call, Client, answer_error
from router.api.deps import Services, identify, services_of
from router.gateway import Answer
from router.types import Completion
from router.wire.chat import parse_chat
from shared.asgi import Receive, Scope, Send, race, read_body, send_error
from shared.errors import MethodNotAllowed, ServiceError
from shared.sse import encode_event

__all__ = ["ChatCompletions", "create_chat_completion"]

_SSE = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx and its kin would hold a stream back.
    (b"x-accel-buffering", b"no"),
)


async def create_chat_completion(services: Services, call: Call, client: Client, log: dict[str, Any]) -> None:
    """Answer one request.

    Args:
        services: What the router is made of.
        call: The request.
        client: Where the answer goes.
        log: The fields of the access log line; what there is to say of the request joins them.
    """
    try:
        caller = await identify(services, call.headers.get("authorization"))
        request = parse_chat(call.body, call.id, caller, call.headers)
        answer = await services.gateway.handle(request, call.started)
        try:
            await (_stream if request.stream else _whole)(answer, client, log)
        finally:
            if not answer.closed:
                await _close(answer, log)
    except ServiceError as error:
        log.setdefault("error", error.code)
        await answer_error(client, error)


async def _whole(answer: Answer, client: Client, log: dict[str, Any]) -> None:
    (event,) = await answer.more()
    assert isinstance(event, Completion)
    headers = answer.meter.head(time.perf_counter())
    # Settled first: what a client has been answered is on the books, whatever happens to this process.
    await _close(answer, log)
    await client.answer(200, headers, event.body)


async def _stream(answer: Answer, client: Client, log: dict[str, Any]) -> None:
    await client.begin((*_SSE, *answer.meter.head(time.perf_counter())))
    try:
        while not answer.meter.complete:
            await answer.pump(client.push)
            if not answer.meter.complete:
                await client.drain()
    except ServiceError as error:
        # The status is out; the event tells the client, and the missing [DONE] that the answer is not whole.
        answer.last = encode_event(error.json())
    await _close(answer, log)
    await client.end(answer.last)


async def _close(answer: Answer, log: dict[str, Any]) -> None:
    outcome = await answer.close()
    if outcome is not None:
        log.update(log_fields(outcome))


class ChatCompletions:
    """The route as a raw ASGI endpoint, for any ASGI server; the services come with the scope."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        state = scope["state"]
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"The route {scope['path']} does not allow {scope['method']}.")
            services = services_of(scope)
            body = await read_body(scope, receive, services.body_limit)
        except ServiceError as error:
            state["log"].setdefault("error", error.code)
            await send_error(send, error, [(b"allow", b"POST")] if isinstance(error, MethodNotAllowed) else [])
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        call = Call(state["request_id"], state["started"], headers, body)
        await race(create_chat_completion(services, call, AsgiClient(send), state["log"]), receive)
