"""Pooled clients: nothing is closed underneath a request, by a reload or by age."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.outbox import Outbox
from router.registry.manifest import parse_manifest
from router.transport.lean import LeanTransport
from tests.support.router import live_router, manifest_for
from tests.support.sending import send, whole
from tests.support.upstream import say, scripted_upstream

_TEXT = "one two three four five six"


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_reload_under_traffic_fails_nobody(tmp_path: Path, transport: str) -> None:
    """The registry is declared anew, again and again, while requests and streams are under way: all are answered."""
    async with scripted_upstream(say(_TEXT)) as upstream, scripted_upstream(say(_TEXT)) as other:
        first, second = manifest_for(upstream.url), manifest_for(other.url, upstream.url, timeouts="{idle: 30}")
        async with live_router(tmp_path, first, transport=transport) as router:
            done = asyncio.Event()

            async def ask(stream: bool) -> list[tuple[int, bool]]:
                seen = []
                while not done.is_set():
                    answer = await router.chat(stream=stream)
                    seen.append((answer.status_code, "[DONE]" in answer.text if stream else _TEXT in answer.text))
                return seen

            asking = [asyncio.ensure_future(ask(number % 2 == 0)) for number in range(8)]
            for number in range(20):
                await asyncio.to_thread(router.store.apply, parse_manifest(second if number % 2 == 0 else first))
                await router.refresh()
                await asyncio.sleep(0.02)
            done.set()
            seen = [one for answers in await asyncio.gather(*asking) for one in answers]
    assert len(seen) >= 8
    assert set(seen) == {(200, True)}
    assert upstream.requests
    assert other.requests


async def test_connections_past_their_age_cost_nobody_a_request() -> None:
    """One that has been idle for too long is not used again, and nobody notices."""
    async with scripted_upstream(say(_TEXT)) as upstream:
        transport = LeanTransport(idle_seconds=0.0, outbox=Outbox(asyncio.get_running_loop()))
        for _ in range(20):
            exchange = await send(transport, f"{upstream.url}/chat/completions")
            assert _TEXT.encode() in await whole(exchange)
            await exchange.close()
        await transport.close()


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_backend_that_closes_its_idle_connections_costs_nobody_a_request(tmp_path: Path, transport: str) -> None:
    """A keep-alive that ended meanwhile is no failure: no second attempt, no error."""
    async with scripted_upstream(say(_TEXT)) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), transport=transport) as router:
            for _ in range(10):
                answers = await asyncio.gather(*(router.chat(stream=number % 2 == 0) for number in range(4)))
                assert {answer.status_code for answer in answers} == {200}
                assert {answer.headers["x-router-attempts"] for answer in answers} == {"1"}
                upstream.hang_up()
