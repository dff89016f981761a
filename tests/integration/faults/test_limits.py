"""Limits are not to be got round: not by many at once, not by falling over to somebody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, completion, fail, scripted_upstream


def _limited(*urls: str, limits: str) -> str:
    """Return a manifest whose last deployment has limits."""
    manifest, last = manifest_for(*urls, breaker="{enabled: false}"), f"priority: {len(urls) - 1}}}"
    return manifest.replace(last, f"{last[:-1]}, limits: {limits}}}")


async def test_many_at_once_spend_no_more_than_there_is(tmp_path: Path) -> None:
    """Of a hundred requests at once, with tokens for ten, ten reach the backend: what they may need is reserved."""
    gate = asyncio.Event()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await gate.wait()
        await reply.json(completion("x", usage={"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}))

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, _limited(upstream.url, limits="{tpm: 10050}")) as router:
            asking = [asyncio.ensure_future(router.chat(max_tokens=1000)) for _ in range(100)]
            refused = {answer.result().status_code for answer in (await _first(asking, 90))}
            gate.set()
            answers = await asyncio.gather(*asking)
            # All were charged what they used, so that there is room again.
            again = await router.chat(max_tokens=1000)
    assert refused == {503}
    assert sum(answer.status_code == 200 for answer in answers) == 10
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
    assert again.status_code == 200
    assert len(upstream.requests) == 11


async def _first(asking: list[asyncio.Task[object]], wanted: int) -> list[asyncio.Task[object]]:
    """Wait until so many have been answered."""
    while len(done := [task for task in asking if task.done()]) < wanted:
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED, timeout=0.01)
    return done


async def test_falling_over_does_not_get_round_a_limit(tmp_path: Path) -> None:
    """Whoever answers instead is asked no more often than its own limit allows."""
    async with scripted_upstream(fail(500)) as broken, scripted_upstream() as second:
        async with live_router(tmp_path, _limited(broken.url, second.url, limits="{rpm: 3}")) as router:
            answers = await asyncio.gather(*(router.chat() for _ in range(20)))
    assert len(second.requests) == 3
    assert sum(answer.status_code == 200 for answer in answers) == 3
    assert {answer.status_code for answer in answers} == {200, 502}


async def test_continuing_a_stream_does_not_get_round_a_limit(tmp_path: Path) -> None:
    """A broken stream is no ticket into a deployment that has no room."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event({"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]})
        reply.cut()

    async with scripted_upstream(script) as broken, scripted_upstream() as second:
        async with live_router(tmp_path, _limited(broken.url, second.url, limits="{rpm: 2}")) as router:
            answers = await asyncio.gather(*(router.chat(stream=True) for _ in range(10)))
    assert len(second.requests) == 2
    assert sum("[DONE]" in answer.text for answer in answers) == 2
    assert sum("stream_interrupted" in answer.text for answer in answers) == 8
