"""Whoever leaves stops the backend: every endpoint, every phase of an answer, both fronts, both ways to go."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from router.api.routes import RESOURCES
from tests.router.test_gateway import usage_rows
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, say, scripted_upstream

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/moderations": {"input": "Hi"},
    "/v1/rerank": {"query": "Hi", "documents": ["a", "b"]},
    "/v1/images/generations": {"prompt": "Hi"},
    "/v1/audio/speech": {"input": "Hi", "voice": "v"},
}
STREAMED = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
PHASES = ("before-headers", "before-first-token", "mid-stream", "before-headers-whole", "mid-body-whole")
CASES = [
    pytest.param(path, phase, id=f"{path.removeprefix('/v1/')}-{phase}")
    for path in BODIES
    if path in RESOURCES
    for phase in PHASES
    if phase.endswith("whole") or path in STREAMED
]
MARK = "spoken"


def first_events(path: str, text: str) -> list[bytes]:
    """Return a stream's events up to its first text, as a backend of OpenAI's dialect tells it under a path."""
    if path.endswith("/chat/completions"):
        events: list[dict[str, Any]] = [chunk({"role": "assistant", "content": ""}), chunk({"content": text})]
    elif path.endswith("/completions"):
        choice = {"index": 0, "text": "", "finish_reason": None, "logprobs": None}
        common = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "x"}
        events = [{**common, "choices": [choice]}, {**common, "choices": [{**choice, "text": text}]}]
    else:
        delta = {"item_id": "i", "output_index": 0, "content_index": 0, "delta": text}
        events = [
            {"type": "response.created", "sequence_number": 0, "response": {"id": "r", "object": "response"}},
            {"type": "response.output_text.delta", "sequence_number": 1, **delta},
        ]
    named = [f"event: {event['type']}\n" if "type" in event else "" for event in events]
    return [f"{name}data: {json.dumps(event)}\n\n".encode() for name, event in zip(named, events, strict=True)]


class Slow:
    """A backend that goes as far as a phase and then waits for the client to go."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.there = asyncio.Event()

    async def __call__(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request, never to the end."""
        if self.phase == "mid-body-whole":
            await reply.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"id": ')
        elif self.phase in ("before-first-token", "mid-stream"):
            begun, spoken = first_events(request.path, MARK)
            await reply.start_stream()
            await reply.send(begun)
            if self.phase == "mid-stream":
                await reply.send(spoken)
        self.there.set()
        await request.closed_early.wait()


async def leave(router: LiveRouter, path: str, slow: Slow, *, half: bool) -> None:
    """Send a request, and hang up, or only say that nothing more will be sent, once the phase is reached."""
    place = urlsplit(router.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    stream = {} if slow.phase.endswith("whole") else {"stream": True}
    body = json.dumps({"model": "m", **BODIES[path], **stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await slow.there.wait()
    if slow.phase == "mid-stream":
        await reader.readuntil(MARK.encode())
    if half:
        writer.write_eof()
        await reader.read()
    writer.close()


@pytest.mark.parametrize("http", ["direct", "asgi"])
@pytest.mark.parametrize(("path", "phase"), CASES)
async def test_leaving_client_stops_the_backend(tmp_path: Path, http: str, path: str, phase: str) -> None:
    """The backend sees the close, the request is on the books once, and the next client is served."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as router:
            for number, half in enumerate((False, True)):
                upstream.script = slow = Slow(phase)
                leaving = asyncio.ensure_future(leave(router, path, slow, half=half))
                await slow.there.wait()
                await asyncio.wait_for(upstream.requests[number].closed_early.wait(), 10)
                await leaving
                assert len(await usage_rows(tmp_path, number + 1)) == number + 1
            assert len(upstream.requests) == 2
            state = router.services.health.state("m@b0")
            assert state is not None
            assert (state.in_flight, state.available) == (0, True)
            upstream.script = say("still here")
            assert (await router.chat()).status_code == 200
    connection = sqlite3.connect(tmp_path / "models.db")
    rows = connection.execute("SELECT status, error FROM usage ORDER BY created_at").fetchall()
    connection.close()
    assert rows == [(499, "client_disconnected")] * 2 + [(200, None)]
