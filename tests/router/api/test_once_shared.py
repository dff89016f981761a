"""`Idempotency-Key` over several routers that share a store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio

import router.main
from tests.router.api.test_once import FORMS, WORDS, Gate, ids_of, without_ids
from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, fail, say, scripted_upstream
from tests.support.valkey import ValkeyProcess, valkey
from tests.support.waiting import eventually

__all__ = ["valkey"]


@FORMS
async def test_routers_that_share_a_store_make_one_call(tmp_path: Path, valkey: ValkeyProcess, stream: bool) -> None:
    """A second router waits for the first one's answer, gives it again, and resumes its streams."""
    gate = Gate()
    headers = {"idempotency-key": f"shared-{stream}-{tmp_path}"}
    settings = {"redis_url": valkey.url, "redis_budget_ms": 5000}
    (tmp_path / "b").mkdir()
    async with scripted_upstream(gate) as upstream:
        manifest = manifest_for(upstream.url)
        async with live_router(tmp_path, manifest, **settings) as one:
            async with live_router(tmp_path / "b", manifest, **settings) as two:
                first = asyncio.ensure_future(one.chat(headers=headers, stream=stream))
                await gate.begun.wait()
                second = asyncio.ensure_future(two.chat(headers=headers, stream=stream))
                reused = await two.chat("other", headers={**headers})
                assert reused.status_code == 409
                gate.open.set()
                answers = await asyncio.gather(first, second)
                assert answers[0].content == answers[1].content
                assert answers[1].headers["x-router-idempotent-replay"] == "true"
                assert len(upstream.requests) == 1
                if stream:
                    place = {**headers, "last-event-id": ids_of(answers[0].text)[-2]}
                    rest = await two.chat(headers=place, stream=True)
                    assert without_ids(rest.text) == "data: [DONE]\n\n"


async def test_router_takes_over_what_another_one_failed_at(tmp_path: Path, valkey: ValkeyProcess) -> None:
    """Who waits for another router's answer asks for itself when that one gives up."""
    free = asyncio.Event()
    headers = {"idempotency-key": f"taken-over-{tmp_path}"}
    settings = {"redis_url": valkey.url, "redis_budget_ms": 5000}

    async def refuses(request: SeenRequest, reply: ScriptedReply) -> None:
        await free.wait()
        await fail(400)(request, reply)

    (tmp_path / "b").mkdir()
    async with scripted_upstream(refuses) as upstream:
        manifest = manifest_for(upstream.url)
        async with live_router(tmp_path, manifest, **settings) as one:
            async with live_router(tmp_path / "b", manifest, **settings) as two:
                first = asyncio.ensure_future(one.chat(headers=headers))
                await eventually(lambda: len(upstream.requests) == 1)
                second = asyncio.ensure_future(two.chat(headers=headers))
                upstream.script = say(WORDS)
                free.set()
                assert (await first).status_code == 400
                assert (await second).status_code == 200
                assert len(upstream.requests) == 2


@pytest.mark.parametrize(("privacy", "kept"), [("local", 0), ("any", 1)])
async def test_private_answer_stays_out_of_a_store_elsewhere(
    tmp_path: Path, valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch, privacy: str, kept: int
) -> None:
    """A Redis on another machine never holds an answer that must stay local; a retry gets it all the same."""
    monkeypatch.setattr(router.main, "_HOME", ())
    headers = {"idempotency-key": f"{privacy}-{tmp_path}", "x-router-privacy": privacy}
    async with scripted_upstream(say(f"a secret of {privacy}")) as upstream:
        manifest = manifest_for(upstream.url).replace("tier: external", "tier: local")
        async with live_router(tmp_path, manifest, redis_url=valkey.url, redis_budget_ms=5000) as live:
            first, again = await live.chat(headers=headers), await live.chat(headers=headers)
            assert first.content == again.content
            assert again.headers["x-router-idempotent-replay"] == "true"
            assert len(upstream.requests) == 1
            client = redis.asyncio.Redis.from_url(valkey.url)
            values = [await client.get(key) for key in await client.keys("once:*")]
            await client.aclose()
            assert len([value for value in values if value and f"secret of {privacy}".encode() in value]) == kept
