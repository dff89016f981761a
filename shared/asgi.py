"""ASGI pieces of both services: request context, body reading, and the race against a leaving client."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, MutableMapping
from typing import Any, TypeVar

from shared.encodings import decode_body, read_encodings
from shared.errors import InternalError, InvalidRequest, PayloadTooLarge, ServiceError
from shared.ids import IdSource
from shared.logs import AccessLog

__all__ = [
    "ASGIApp",
    "ClientDisconnected",
    "Message",
    "Receive",
    "RequestContext",
    "Scope",
    "Send",
    "header",
    "race",
    "read_body",
    "send_error",
    "send_json",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DRAIN_LIMIT = 256 * 1024 * 1024
_log = logging.getLogger(__name__)


class ClientDisconnected(Exception):
    """The client closed the connection before the answer was complete."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a request header (`name` in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


async def send_json(
    send: Send,
    status: int,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    content_type: bytes = b"application/json",
) -> None:
    """Send one complete answer, JSON unless `content_type` says otherwise."""
    head = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ServiceError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error in OpenAI's shape."""
    own = [(name.encode(), value.encode()) for name, value in error.headers().items()]
    await send_json(send, error.status, error.json(), [*own, *headers])


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole request body, unpacked where it is compressed.

    A body over the limit is read to its end and dropped, so that the client sees the answer
    and not a reset connection; one that is far over it is not read at all.

    Args:
        scope: The request's scope.
        receive: The request's receive channel.
        limit: The largest body accepted, in bytes, both as it comes and unpacked.

    Raises:
        PayloadTooLarge: The body exceeds `limit`.
        UnsupportedMediaType: The body is compressed in a way that cannot be read.
        ClientDisconnected: The client left while sending.
        InvalidRequest: The `Content-Length` header is no number, or the compression is damaged.
    """
    told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    encodings = read_encodings(",".join(told)) if told else ()
    declared = header(scope, b"content-length")
    if declared is not None and not declared.isdigit():
        raise InvalidRequest("The Content-Length header must be a number.")
    if declared is not None and int(declared) - limit > _DRAIN_LIMIT:
        raise PayloadTooLarge(f"The request body exceeds the limit of {limit} bytes.")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        if not message.get("more_body", False) or size - limit > _DRAIN_LIMIT:
            break
    if size > limit:
        raise PayloadTooLarge(f"The request body exceeds the limit of {limit} bytes.")
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    # A little that unpacks to much takes a while, and nobody else is to wait for it.
    return await asyncio.to_thread(decode_body, body, encodings, limit) if encodings else body


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def race(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Run `work` until it ends or the client leaves, whichever comes first.

    The request body must have been read. Servers do not cancel a handler whose client has left,
    so without this race a backend goes on generating for nobody.

    Raises:
        ClientDisconnected: The client left; `work` has been cancelled and has finished its clean-up. Or `work`
            was cancelled by somebody who knows that the client is as good as gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled():
            return task.result()
        raise ClientDisconnected
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.debug("work ended with an error after its client had left", exc_info=error)


class RequestContext:
    """Pure ASGI middleware: request id, clock, the last line against crashes, the access log line.

    Sets `scope["state"]["request_id"]` (unique; a caller's own `x-request-id` joins the log line)
    and `scope["state"]["started"]` (`time.perf_counter` seconds); whatever a handler puts in
    `scope["state"]["log"]` (a dict) joins the log line.

    Args:
        app: The application inside.
        logger: Where the one access line of each request goes.
        quiet: Paths of probes, which are logged at level debug where they succeed or say "not yet" (503).
        access: Where access lines go instead, at a fraction of the cost.
    """

    def __init__(
        self, app: ASGIApp, logger: logging.Logger, quiet: Collection[str] = (), access: AccessLog | None = None
    ) -> None:
        self._app = app
        self._log = logger
        self._quiet = frozenset(quiet)
        self._access = access
        self._make_id = IdSource("req_").make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Always our own: accounts are kept by it, and a caller that repeats an id must not merge two.
        request_id = self._make_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["started"] = started = time.perf_counter()
        fields: dict[str, Any] = {}
        theirs = header(scope, b"x-request-id")
        if theirs and _REQUEST_ID.fullmatch(theirs):
            fields["client_request_id"] = theirs
        state["log"] = fields
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnected:
            status = status or 499
        except Exception:
            self._log.exception("unhandled exception", extra={"fields": {"request_id": request_id}})
            if status:
                raise  # the head is out: only closing the connection tells the client
            error = InternalError(f"The server had an internal error. Request id: {request_id}.")
            await send_error(send_with_id, error)
        finally:
            self._tell(scope, status, started, fields)

    def _tell(self, scope: Scope, status: int, started: float, more: dict[str, Any]) -> None:
        """Write the access line."""
        fields = {
            "request_id": scope["state"]["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": int((time.perf_counter() - started) * 100_000 + 0.5) / 100,
            **more,
        }
        # Who waits for a long download asks several times a second, and "not yet" is an answer.
        if scope["path"] in self._quiet and (status < 400 or status == 503):
            self._log.debug("request", extra={"fields": fields})
        elif self._access is not None:
            self._access.write(fields)
        else:
            self._log.info("request", extra={"fields": fields})
