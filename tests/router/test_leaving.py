"""A router that is told to stop: what load balancers, keep-alive connections and open answers see of it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.router.test_gateway import usage_rows
from tests.support.process import Service, router_process
from tests.support.router import manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, scripted_upstream
from tests.support.waiting import eventually

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


class Scene:
    """A running router, and a backend whose streams begin and end when the test says so."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.may_begin = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_begin.set()

    async def script(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer a stream in two pieces, anything else at once."""
        if not request.json.get("stream"):
            await reply.json({"choices": [{"message": {"role": "assistant", "content": "whole"}}], "model": "up"})
            return
        await self.may_begin.wait()
        await reply.start_stream()
        await reply.event(chunk({"content": "begun"}))
        await self.may_end.wait()
        await reply.event(chunk({"content": " ended"}))
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    def client(self) -> httpx.AsyncClient:
        """A client with a connection of its own."""
        return httpx.AsyncClient(base_url=self.service.url, timeout=30, trust_env=False)

    async def tell(self) -> None:
        """Tell the router to stop, and wait until it leaves."""
        self.service.process.send_signal(signal.SIGTERM)

        async def leaves() -> bool:
            async with self.client() as client:
                return (await client.get("/readyz")).status_code == 503

        await eventually(leaves)

    async def shut(self) -> bool:
        """Say whether nothing new is accepted."""
        try:
            async with self.client() as late:
                await late.get("/healthz")
        except httpx.TransportError:
            return True
        return False

    async def ended(self) -> int:
        """Wait until the router has ended, and return its status."""
        return await asyncio.to_thread(self.service.process.wait, 30)


@asynccontextmanager
async def scene(folder: Path, workers: int, **env: str) -> AsyncIterator[Scene]:
    """Run a router in front of a scripted upstream."""
    async with scripted_upstream() as upstream:
        manifest = folder / "models.yaml"
        manifest.write_text(manifest_for(upstream.url))
        settings = {"ROUTER_WORKERS": str(workers), "ROUTER_REGISTRY_FILE": str(manifest), **env}
        with router_process(folder, settings) as service:
            made = Scene(service)
            upstream.script = made.script
            try:
                yield made
            finally:
                made.may_begin.set()
                made.may_end.set()


@pytest.mark.parametrize("workers", [1, 2])
async def test_router_that_settles_still_answers_and_says_so(tmp_path: Path, workers: int) -> None:
    """New connections are served while `/readyz` says no; open streams go on; a second signal ends it."""
    async with scene(tmp_path, workers, ROUTER_SETTLE_SECONDS="600") as played, played.client() as client:
        kept = await client.post(PATH, json=ASKED)
        assert "connection" not in kept.headers
        async with played.client() as other, other.stream("POST", PATH, json={**ASKED, "stream": True}) as stream:
            await played.tell()
            async with played.client() as late:
                new = await late.post(PATH, json=ASKED)
                assert (new.status_code, new.headers["connection"]) == (200, "close")
                assert (await late.get("/healthz")).status_code == 200
            again = await client.post(PATH, json=ASKED)
            assert (again.status_code, again.headers["connection"]) == (200, "close")
            played.may_end.set()
            assert (await stream.aread()).endswith(b"data: [DONE]\n\n")
        assert played.service.process.poll() is None
        played.service.process.send_signal(signal.SIGTERM)
        await played.ended()


@pytest.mark.parametrize("workers", [1, 2])
async def test_router_that_has_settled_ends(tmp_path: Path, workers: int) -> None:
    """After its time it takes nothing new, finishes what is open and ends with success."""
    async with scene(tmp_path, workers, ROUTER_SETTLE_SECONDS="0.2") as played, played.client() as client:
        async with client.stream("POST", PATH, json={**ASKED, "stream": True}) as stream:
            played.service.process.send_signal(signal.SIGTERM)
            await eventually(played.shut)
            played.may_end.set()
            assert (await stream.aread()).endswith(b"data: [DONE]\n\n")
        assert await played.ended() == 0


@pytest.mark.parametrize("http", ["direct", "asgi"])
async def test_connection_that_was_promised_to_stay_serves_once_more(tmp_path: Path, http: str) -> None:
    """A client whose stream ends in the drain, and that uses its connection again at once, gets its answer."""
    one = httpx.Limits(max_connections=1)
    async with scene(tmp_path, 1, ROUTER_HTTP=http) as played:
        async with httpx.AsyncClient(base_url=played.service.url, timeout=30, trust_env=False, limits=one) as client:
            async with client.stream("POST", PATH, json={**ASKED, "stream": True}) as stream:
                assert "connection" not in stream.headers
                played.service.process.send_signal(signal.SIGTERM)
                await eventually(played.shut)
                played.may_end.set()
                assert (await stream.aread()).endswith(b"data: [DONE]\n\n")
            again = await client.post(PATH, json=ASKED)
            assert (again.status_code, again.headers["connection"]) == (200, "close")
        assert await played.ended() == 0


async def test_answers_that_take_too_long_end_well_formed(tmp_path: Path) -> None:
    """Who is cut off at the end of the drain is told so: by an event, or where nothing was said yet, by a status."""
    async with scene(tmp_path, 1, ROUTER_DRAIN_SECONDS="0") as played, played.client() as client:
        async with client.stream("POST", PATH, json={**ASKED, "stream": True}) as begun:
            lines = begun.aiter_lines()
            assert "begun" in await anext(lines)
            played.may_begin.clear()
            silent = asyncio.ensure_future(client.post(PATH, json={**ASKED, "stream": True}))
            await eventually(lambda: "router_in_flight_requests 2.0" in httpx.get(played.service.url + "/metrics").text)
            played.service.process.send_signal(signal.SIGTERM)
            told = [line async for line in lines if line]
            assert json.loads(told[-1].removeprefix("data: "))["error"]["code"] == "stream_interrupted"
            assert "data: [DONE]" not in told
        refused = await silent
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert await played.ended() == 0
        assert len(await usage_rows(tmp_path, 2)) == 2
