"""Answers: one generation as JSON or as server-sent events, in a route's own dialect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from local_agent.metrics import Metrics
from local_agent.supervisor import Supervisor
from local_agent.types import Finished, Generation, Piece
from shared.asgi import Receive, Scope, Send, race, send_error, send_json
from shared.errors import InternalError, Overloaded, ServiceError
from shared.sse import DONE, encode_event

__all__ = ["Answer", "Dialect", "event", "usage_of"]

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(content: dict[str, Any]) -> bytes:
    """Return one server-sent event of compact JSON."""
    return encode_event(msgspec.json.encode(content))


def usage_of(finished: Finished) -> dict[str, int]:
    """Return the usage object of an answer."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
    }


class Dialect(Protocol):
    """How a route writes an answer."""

    def begin(self) -> bytes:
        """Return the events before the first text."""

    def piece(self, text: str) -> bytes:
        """Return the event of a piece of text."""

    def end(self, finished: Finished) -> bytes:
        """Return the events after the last text, without `[DONE]`."""

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""


class Answer(Response):
    """Runs a generation and writes it; the generation is cancelled when the client leaves.

    Args:
        supervisor: Runs generations.
        generation: What to generate.
        dialect: How to write it.
        stream: Whether as events.
        metrics: Where times and tokens are counted.
        route: The route's name in the metrics.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        generation: Generation,
        dialect: Dialect,
        *,
        stream: bool,
        metrics: Metrics,
        route: str,
    ) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._generation = generation
        self._dialect = dialect
        self._stream = stream
        self._metrics = metrics
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the answer on one connection."""
        started = time.perf_counter()
        outcome = "cancelled"
        writer = _Stream(send, self._dialect) if self._stream else _Whole(send, self._dialect)
        try:
            outcome = await race(self._run(scope, writer, started), receive)
        except asyncio.CancelledError:
            # Only a server that shuts down cancels a request; the client hears it in the usual form.
            error = Overloaded("The agent is shutting down.", retry_after=5)
            scope["state"]["log"]["error"] = outcome = str(error.code)
            await writer.fail(error)
        finally:
            self._metrics.ended(self._route, outcome, time.perf_counter() - started)

    async def _run(self, scope: Scope, writer: _Writer, started: float) -> str:
        log = scope["state"]["log"]
        async with contextlib.aclosing(self._supervisor.generate(self._generation)) as events:
            try:
                await self._pump(events, writer, log, started)
            except ServiceError as error:
                log["error"] = error.code
                await writer.fail(error)
                return str(error.code)
            except Exception:
                await writer.fail(InternalError("The server had an internal error."))
                raise
        return "ok"

    async def _pump(
        self, events: AsyncGenerator[Piece | Finished, None], writer: _Writer, log: dict[str, Any], started: float
    ) -> None:
        first = True
        async for item in events:
            if first:
                first = False
                self._metrics.first_token.labels(self._route).observe(time.perf_counter() - started)
            if isinstance(item, Piece):
                await writer.piece(item.text)
            else:
                self._metrics.count_tokens(item.prompt_tokens, item.completion_tokens)
                log.update(usage_of(item), finish_reason=item.reason)
                await writer.end(item)


class _Writer(Protocol):
    async def piece(self, text: str) -> None: ...

    async def end(self, finished: Finished) -> None: ...

    async def fail(self, error: ServiceError) -> None: ...


class _Stream:
    """Writes events; the status line waits for the first output, so that earlier errors keep their status."""

    def __init__(self, send: Send, dialect: Dialect) -> None:
        self._send = send
        self._dialect = dialect
        self._begun = False

    async def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        return self._dialect.begin()

    async def _write(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def piece(self, text: str) -> None:
        await self._write(await self._begin() + self._dialect.piece(text), more=True)

    async def end(self, finished: Finished) -> None:
        await self._write(await self._begin() + self._dialect.end(finished) + DONE, more=False)

    async def fail(self, error: ServiceError) -> None:
        if self._begun:
            await self._write(event(error.body()), more=False)
        else:
            await send_error(self._send, error)


class _Whole:
    """Collects the text and writes one JSON object."""

    def __init__(self, send: Send, dialect: Dialect) -> None:
        self._send = send
        self._dialect = dialect
        self._pieces: list[str] = []

    async def piece(self, text: str) -> None:
        self._pieces.append(text)

    async def end(self, finished: Finished) -> None:
        body = self._dialect.whole("".join(self._pieces), finished)
        await send_json(self._send, 200, msgspec.json.encode(body))

    async def fail(self, error: ServiceError) -> None:
        await send_error(self._send, error)
