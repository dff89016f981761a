"""A server that answers with exact bytes, for what no well-behaved server would send."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class WireServer:
    """The running server and what happened on it."""

    url: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    handler: Handler | None = None

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request with its body and keep it."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
        )
        request = head + await reader.readexactly(length)
        self.requests.append(request)
        return request


def answers(*answers_in_turn: bytes, close: bool = False) -> Callable[[WireServer], Handler]:
    """Return a handler that gives these bytes, one for each request, and then closes if so asked."""

    def bind(server: WireServer) -> Handler:
        turn = deque(answers_in_turn)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while turn:
                await server.read_request(reader)
                writer.write(turn.popleft())
                await writer.drain()
                if close:
                    return
            await reader.read()

        return handle

    return bind


@asynccontextmanager
async def wire_server(
    bind: Callable[[WireServer], Handler], tls: ssl.SSLContext | None = None
) -> AsyncIterator[WireServer]:
    """Run a server whose connections a handler serves, while the context lasts."""
    server = WireServer()
    handler = bind(server)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/x"
    try:
        yield server
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks))
