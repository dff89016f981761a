"""A scripted upstream: a real HTTP/1.1 server on a port whose answers a test writes down.

The test gives a `script`: a coroutine that gets each request and a reply to write to. The server
keeps every request it saw, and whether the client closed before the script was done.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SeenRequest:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    closed_early: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class ScriptedReply:
    """Where a script writes its answer."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._chunked = False

    async def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Write a whole JSON answer."""
        await self.body(json.dumps(body).encode(), status, {"content-type": "application/json", **(headers or {})})

    async def body(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Write a whole answer."""
        head = {"content-length": str(len(data)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        await self.raw(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + data)

    async def start_stream(self, headers: dict[str, str] | None = None) -> None:
        """Begin an event stream."""
        head = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        await self.raw(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode())

    async def send(self, data: bytes) -> None:
        """Write one chunk of a stream."""
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, data: Any) -> None:
        """Write one event of a stream."""
        text = data if isinstance(data, str) else json.dumps(data)
        await self.send(f"data: {text}\n\n".encode())

    async def named_event(self, name: str, data: Any) -> None:
        """Write one event of a stream with its `event:` line."""
        await self.send(f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode())

    async def end_stream(self) -> None:
        """End a stream properly."""
        await self.raw(b"0\r\n\r\n")

    def cut(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()


Script = Callable[[SeenRequest, ScriptedReply], Awaitable[None]]


class ScriptedUpstream:
    """The running server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[SeenRequest] = []
        self.connections = 0
        self.script: Script = say("Hello from the script.")
        self._waiting: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The base URL, with `/v1`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def hang_up(self) -> None:
        """Close the connections that wait for another request."""
        for writer in self._waiting:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self._waiting.add(writer)
                try:
                    request = await _read_request(reader)
                finally:
                    self._waiting.discard(writer)
                self.requests.append(request)
                work = asyncio.ensure_future(self.script(request, ScriptedReply(writer)))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    gone.exception()
                if not work.done():
                    request.closed_early.set()
                    work.cancel()
                    await asyncio.wait((work,))
                    break
                gone.cancel()
                await asyncio.wait((gone,))
                if work.exception() is not None or writer.is_closing():
                    break
        with suppress(ConnectionError):
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> SeenRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    chunked = headers.get("transfer-encoding") == "chunked"
    body = await (_read_chunks(reader) if chunked else reader.readexactly(int(headers.get("content-length", "0"))))
    return SeenRequest(method, path, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        data = await reader.readexactly(size + 2)
        if size == 0:
            return body
        body += data[:-2]


@asynccontextmanager
async def scripted_upstream(script: Script | None = None) -> AsyncIterator[ScriptedUpstream]:
    """Run a scripted upstream on a free port while the context lasts."""
    upstream = ScriptedUpstream(0)
    if script is not None:
        upstream.script = script
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await upstream.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=64 * 1024 * 1024)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks))


def completion(text: str, model: str = "upstream-model", **extra: Any) -> dict[str, Any]:
    """Return a chat completion as an OpenAI server would write it."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-script",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        **extra,
    }


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    """Return a chat completion chunk; a delta of None makes one without choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-script",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "upstream-model",
        "choices": choices,
        **extra,
    }


def say(text: str) -> Script:
    """Return a script that answers with a text, streamed word by word or whole."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        asked = request.json
        if not asked.get("stream"):
            await reply.json(completion(text))
            return
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": ""}))
        for word in re.findall(r"^\S*| \S*", text):
            await reply.event(chunk({"content": word}))
        await reply.event(chunk({}, "stop"))
        if (asked.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
            await reply.event(chunk(None, usage=usage))
        await reply.event("[DONE]")
        await reply.end_stream()

    return script


def fail(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Script:
    """Return a script that answers every request with an error."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        default = {"error": {"message": f"scripted {status}", "type": "server_error", "param": None, "code": None}}
        await reply.json(default if body is None else body, status, headers)

    return script
