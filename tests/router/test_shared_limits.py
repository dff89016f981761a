"""Limits over two worker processes and a real Redis: what reaches the backend is counted there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.router.test_workers import ASKED, PATH
from tests.support.process import router_process
from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, completion, scripted_upstream
from tests.support.valkey import ValkeyProcess, own_valkey
from tests.support.waiting import eventually

__all__ = ["own_valkey"]


def limited(url: str, limits: str) -> str:
    """Return a manifest with one deployment that has limits."""
    return manifest_for(url).replace("priority: 0}", f"priority: 0, limits: {limits}}}")


async def fire(url: str, requests: int) -> list[httpx.Response]:
    """Send so many requests at once, each over a connection of its own."""

    async def one() -> httpx.Response:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            return await client.post(PATH, json=ASKED)

    return await asyncio.gather(*(one() for _ in range(requests)))


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "without"])
async def test_two_workers_keep_a_limit_together(tmp_path: Path, own_valkey: ValkeyProcess, redis: bool) -> None:
    """Of all requests of a minute exactly thirty reach the backend; the others are told to come again."""
    async with scripted_upstream() as upstream:
        manifest = tmp_path / "models.yaml"
        manifest.write_text(limited(upstream.url, "{rpm: 30}"))
        env = {"ROUTER_WORKERS": "2", "ROUTER_REGISTRY_FILE": str(manifest)}
        if redis:
            env |= {"REDIS_URL": own_valkey.url, "ROUTER_REDIS_BUDGET_MS": "2000"}
        with router_process(tmp_path, env) as router:
            answers = await fire(router.url, 60)
            for _ in range(50):
                if len(upstream.requests) >= 30:
                    break
                # What one worker holds and does not need goes to the other, off the request path.
                await asyncio.sleep(0.1)
                answers += await fire(router.url, 10)
            answers += await fire(router.url, 20)
    assert len(upstream.requests) == 30
    assert sum(answer.status_code == 200 for answer in answers) == 30
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(503, "overloaded")}
    assert all(1 <= int(answer.headers["retry-after"]) <= 61 for answer in refused)
    assert "30 requests a minute are used up" in refused[-1].text


async def test_tokens_that_were_used_count(tmp_path: Path) -> None:
    """A request that announces much and uses little leaves room for the next."""
    go_on = asyncio.Event()
    go_on.set()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await go_on.wait()
        await reply.json(completion("Hi"))  # twelve tokens

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, limited(upstream.url, "{tpm: 600}")) as router:
            for _ in range(5):
                assert (await router.chat(max_tokens=400)).status_code == 200
            go_on.clear()
            first = asyncio.ensure_future(router.chat(max_tokens=400))
            await eventually(lambda: len(upstream.requests) == 6)
            second = await router.chat(max_tokens=400)
            go_on.set()
            assert (await first).status_code == 200
            assert second.status_code == 503
            assert "600 tokens a minute are used up" in second.text
            assert (await router.chat(max_tokens=400)).status_code == 200
