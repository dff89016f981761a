"""`POST /v1/chat/completions`, as a raw ASGI endpoint: no framework work on the request path."""

from __future__ import annotations

import time
from contextlib import aclosing

from router.accounting import log_fields
from router.api.deps import Services, identify, services_of
from router.gateway import Answer
from router.types import Chunk, InferenceRequest
from router.wire.chat import parse_chat
from shared.asgi import Receive, Scope, Send, race, read_body, send_error, send_json
from shared.errors import MethodNotAllowed, ServiceError
from shared.sse import encode_event

__all__ = ["ChatCompletions"]

_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx and its kin would hold a stream back.
    (b"x-accel-buffering", b"no"),
]


class ChatCompletions:
    """The ASGI endpoint; the services come with the scope."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"The route {scope['path']} does not allow {scope['method']}.")
            services = services_of(scope)
            caller = await identify(services, scope)
            body = await read_body(scope, receive, services.body_limit)
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            request = parse_chat(body, scope["state"]["request_id"], caller, headers)
            await race(_respond(services, request, scope, send), receive)
        except ServiceError as error:
            extra = [(b"allow", b"POST")] if isinstance(error, MethodNotAllowed) else []
            scope["state"]["log"].setdefault("error", error.code)
            await send_error(send, error, extra)


async def _respond(services: Services, request: InferenceRequest, scope: Scope, send: Send) -> None:
    """Answer the request; an error before the commit point is the caller's to send."""
    answer = await services.gateway.handle(request, scope["state"]["started"])
    try:
        if request.stream:
            await _stream(answer, send)
        else:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    assert not isinstance(event, Chunk)
                    await send_json(send, 200, event.body, _head(answer))
    finally:
        outcome = await answer.close()
        if outcome is not None:
            scope["state"]["log"].update(log_fields(outcome))


async def _stream(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*_SSE, *_head(answer)]})
    try:
        async with aclosing(answer.events()) as events:
            async for event in events:
                if isinstance(event, Chunk) and event.raw:
                    await send({"type": "http.response.body", "body": event.raw, "more_body": True})
    except ServiceError as error:
        # The status is out; the event tells the client, and the missing [DONE] that the answer is not whole.
        await send({"type": "http.response.body", "body": encode_event(error.json()), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _head(answer: Answer) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in answer.meter.head(time.perf_counter()).items()]
