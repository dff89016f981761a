"""Large and long: what is slow is held back and never piled up, what is large arrives whole, on both fronts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import router.server.exchange
from router.transport.connection import Connection
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, completion, say, scripted_upstream

FRONTS = pytest.mark.parametrize("http", ["direct", "asgi"])
MIB = 1024 * 1024
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class Flood:
    """A backend that writes a long stream as fast as it is read, and notes how much of it went out.

    Args:
        pieces: How many events it has.
        size: Bytes of text in each.
    """

    def __init__(self, pieces: int, size: int) -> None:
        self.text = "x" * size
        self.pieces = pieces
        self.sent = 0
        self.held = asyncio.Event()
        """Set once nobody has taken anything for a while."""
        self.left = asyncio.Event()
        """Set once the answer has ended, one way or the other."""

    async def __call__(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request."""
        with suppress(ConnectionError):
            try:
                await self._flow(reply)
            finally:
                self.left.set()

    async def _flow(self, reply: ScriptedReply) -> None:
        event = f"data: {json.dumps(chunk({'content': self.text}))}\n\n".encode()
        await reply.start_stream()
        for _ in range(self.pieces):
            sending = asyncio.ensure_future(reply.send(event))
            # However long this is, it decides only when the test looks, not what it sees.
            await asyncio.wait((sending,), timeout=0.5)
            if not sending.done():
                self.held.set()
            await sending
            self.sent += len(event)
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()
        self.held.set()


def slow_socket(router: LiveRouter, headers: str = "") -> socket.socket:
    """Return a connection with hardly any room, with a streaming request sent on it."""
    place = urlsplit(router.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((place.hostname, place.port))
    body = json.dumps(BODY)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    connection.sendall((head + body).encode())
    return connection


async def drained(connection: socket.socket) -> int:
    """Return how many letters of the flood come, up to the end of the stream."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=MIB)
    count, tail = 0, b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = await reader.read(MIB)
        assert data, "the stream was cut"
        count += data.count(b"x")
        tail = (tail + data)[-16:]
    writer.close()
    return count


@FRONTS
@pytest.mark.parametrize("headers", ["", "idempotency-key: k\r\n"], ids=["plain", "keyed"])
async def test_slow_reader_holds_the_backend_back(tmp_path: Path, http: str, headers: str) -> None:
    """A client that reads nothing stops the backend after what buffers hold; once it reads, all of it comes."""
    flood = Flood(pieces=60, size=MIB)
    async with scripted_upstream(flood) as upstream:
        manifest = manifest_for(upstream.url)
        async with live_router(tmp_path, manifest, http=http, replay_max_bytes=MIB, ping_seconds=0.1) as live:
            connection = slow_socket(live, headers)
            await flood.held.wait()
            assert flood.sent < 30 * MIB
            assert await drained(connection) >= flood.pieces * MIB
            connection.close()
            upstream.script = say("fine")
            assert (await live.chat()).status_code == 200


@FRONTS
async def test_client_that_never_reads_is_left(tmp_path: Path, http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience the router stops the backend for a client that takes nothing, ping or not."""
    monkeypatch.setattr(router.server.exchange, "_PATIENCE", 0.3)
    flood = Flood(pieces=100, size=MIB)
    async with scripted_upstream(flood) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http, ping_seconds=0.1) as live:
            live.services.pulse._patience = 12
            connection = slow_socket(live)
            try:
                await asyncio.wait_for(flood.left.wait(), 20)
            finally:
                connection.close()
            assert flood.sent < 30 * MIB


@FRONTS
async def test_large_request_reaches_the_backend_whole(tmp_path: Path, http: str) -> None:
    """Twenty megabytes go up byte for byte, but for the model's name."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as live:
            text = "ü" * (10 * MIB)
            body = json.dumps(
                {"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False
            ).encode()
            answer = await live.client.post("/v1/chat/completions", content=body)
            assert answer.status_code == 200, answer.text
            expected = body.replace(b'"model": "m"', b'"model": "up-0"')
            assert hashlib.sha256(upstream.requests[0].body).digest() == hashlib.sha256(expected).digest()


@FRONTS
async def test_large_answers_arrive_whole(tmp_path: Path, http: str) -> None:
    """A whole answer of eight megabytes, and an event of two, come as they were sent."""
    event = f"data: {json.dumps(chunk({'content': 'y' * (2 * MIB)}))}\n\n"

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if not request.json.get("stream"):
            await reply.json(completion("z" * (8 * MIB)))
            return
        await reply.start_stream()
        await reply.send(event.encode())
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as live:
            assert len((await live.chat()).json()["choices"][0]["message"]["content"]) == 8 * MIB
            streamed = await live.chat(stream=True)
            assert streamed.text.startswith(event)
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert "content-length" not in streamed.headers


@FRONTS
async def test_stream_of_ten_thousand_events_arrives_in_order(tmp_path: Path, http: str) -> None:
    """Nothing is lost, repeated or swapped, with a key and without."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for first in range(0, 10_000, 100):
            events = [json.dumps(chunk({"content": f"<{number}>"})) for number in range(first, first + 100)]
            await reply.send("".join(f"data: {event}\n\n" for event in events).encode())
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as live:
            for headers in (None, {"idempotency-key": "k"}):
                answer = await live.chat(stream=True, headers=headers)
                assert re.findall(r"<(\d+)>", answer.text) == [str(number) for number in range(10_000)]


@FRONTS
async def test_sockets_send_at_once(tmp_path: Path, http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP_NODELAY is set towards clients and backends: small events never wait for an acknowledgement."""
    seen: dict[str, int] = {}

    def spied(kind: type[Any], name: str) -> None:
        made = kind.connection_made

        def connection_made(self: Any, transport: asyncio.Transport) -> None:
            seen[name] = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            made(self, transport)

        monkeypatch.setattr(kind, "connection_made", connection_made)

    spied(HttpToolsProtocol, "client")
    spied(Connection, "backend")
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as live:
            assert (await live.chat()).status_code == 200
    assert set(seen) == {"client", "backend"}
    assert all(seen.values())
