"""Cancellation: a client that leaves takes its upstream request with it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.router import LiveRouter
from tests.support.sdk import HELLO, acted, world
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, say
from tests.support.waiting import eventually

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": HELLO},
    "/v1/responses": {"model": "m", "input": "Hi"},
    "/v1/messages": {"model": "m", "messages": HELLO, "max_tokens": 5},
}
WHOLE: dict[str, dict[str, Any]] = {
    **ROUTES,
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/embeddings": {"model": "m", "input": "Hi"},
}
NATIVE: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "native", "input": "hang"},
    "/v1/messages": {"model": "claude", "messages": [{"role": "user", "content": "hang"}], "max_tokens": 5},
}
MOMENTS = ("before headers", "before first token", "mid-stream")


class Stage:
    """An upstream that stops at a moment and says that it is there."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.reached = asyncio.Event()

    async def __call__(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Play up to the moment, and wait for the end of the connection."""
        if self.moment != "before headers":
            await reply.start_stream()
            await reply.event(chunk({"role": "assistant", "content": ""}))
        if self.moment == "mid-stream":
            await reply.event(chunk({"content": "a"}))
        self.reached.set()
        await asyncio.Event().wait()


async def opened(router: LiveRouter, path: str, body: dict[str, Any]) -> asyncio.StreamWriter:
    """Send a request on a connection of its own."""
    place = urlsplit(router.url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return writer


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_stream_is_closed_upstream(tmp_path: Path, route: str, moment: str) -> None:
    """Before the head, before the first token, in the middle: the upstream sees the close."""
    stage = Stage(moment)
    async with world(tmp_path, stage) as there:
        writer = await opened(there.router, route, {**ROUTES[route], "stream": True})
        await stage.reached.wait()
        writer.close()
        await asyncio.wait_for(there.seen[0].closed_early.wait(), 10)
        assert len(there.seen) == 1


@pytest.mark.parametrize("route", WHOLE)
async def test_whole_answer_is_closed_upstream(tmp_path: Path, route: str) -> None:
    """Nobody finishes an answer that nobody waits for, streamed or not."""
    stage = Stage("before headers")
    async with world(tmp_path, stage) as there:
        writer = await opened(there.router, route, WHOLE[route])
        await stage.reached.wait()
        writer.close()
        await asyncio.wait_for(there.seen[0].closed_early.wait(), 10)
        assert len(there.seen) == 1


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
async def test_reset_connection_is_closed_upstream(tmp_path: Path, route: str, stream: bool) -> None:
    """A client that vanishes with a reset is gone as well."""
    stage = Stage("mid-stream" if stream else "before headers")
    async with world(tmp_path, stage) as there:
        writer = await opened(there.router, route, {**ROUTES[route], "stream": stream})
        await stage.reached.wait()
        writer.transport.abort()
        await asyncio.wait_for(there.seen[0].closed_early.wait(), 10)


@pytest.mark.parametrize("route", NATIVE)
@pytest.mark.parametrize("stream", [False, True])
async def test_native_answer_is_closed_upstream(tmp_path: Path, route: str, stream: bool) -> None:
    """The same where the backend itself speaks the client's dialect."""
    async with acted(tmp_path) as there:
        writer = await opened(there.router, route, {**NATIVE[route], "stream": stream})
        await eventually(lambda: bool(there.seen))
        writer.close()
        await asyncio.wait_for(there.seen[0].closed_early.wait(), 10)


async def test_sdk_that_breaks_off_closes_upstream(tmp_path: Path) -> None:
    """Leaving the SDK's stream, and cancelling its call."""
    stage = Stage("mid-stream")
    async with world(tmp_path, stage) as there:
        stream = await there.ask(stream=True)
        async for _ in stream:
            break
        await stream.close()
        await asyncio.wait_for(there.seen[0].closed_early.wait(), 10)
        stage.moment = "before headers"
        stage.reached.clear()
        asking = asyncio.ensure_future(there.ask())
        await stage.reached.wait()
        asking.cancel()
        await asyncio.wait_for(there.seen[1].closed_early.wait(), 10)


async def test_half_closed_socket_gets_its_answer_or_ends_upstream(tmp_path: Path) -> None:
    """A client that has only finished writing is answered, or its request ends upstream: nothing hangs."""
    async with world(tmp_path, say("Hello.")) as there:
        place = urlsplit(there.router.url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        data = json.dumps(ROUTES["/v1/chat/completions"]).encode()
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n".encode())
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        assert b"Hello." in answer or answer == b""
        writer.close()
        assert (await there.router.chat()).status_code == 200
