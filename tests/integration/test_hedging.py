"""Hedging on a live router: a slow backend loses to the next, is hung up on at once, and costs the client nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, say, scripted_upstream
from tests.support.waiting import eventually

PAUSE = {"role": "assistant", "content": ""}


def manifest(*urls: str, hedge: str = "{budget: 1, after_ms: 20}", **policy: str) -> str:
    """Return a manifest whose policy `p` hedges."""
    more = "".join(f", {name}: {value}" for name, value in policy.items())
    return manifest_for(*urls) + f"policies: [{{name: p, candidates: [m], hedge: {hedge}{more}}}]\n"


def slow(begin: asyncio.Event, text: str = "late") -> Script:
    """Return a script that says its role, and the rest once it may."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if not request.json.get("stream"):
            await begin.wait()
            await say(text)(request, reply)
            return
        await reply.start_stream()
        await reply.event(chunk(PAUSE))
        await begin.wait()
        await reply.event(chunk({"content": text}))
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    return script


async def hedges(router: LiveRouter) -> list[str]:
    """Return the counters of second requests."""
    text = (await router.client.get("/metrics")).text
    return [line for line in text.splitlines() if line.startswith("router_hedges_total{")]


async def test_slow_backend_loses_and_is_hung_up_on(tmp_path: Path) -> None:
    """The client gets the second's answer alone; the first sees the close; both are counted, one is billed."""
    async with scripted_upstream(slow(asyncio.Event())) as first, scripted_upstream(say("in time")) as second:
        async with live_router(tmp_path, manifest(first.url, second.url)) as router:
            answer = await router.chat(model="p", stream=True)
            assert "in" in answer.text
            assert "late" not in answer.text
            assert answer.text.endswith("data: [DONE]\n\n")
            assert answer.headers["x-router-backend"] == "b1"
            assert answer.headers["x-router-attempts"] == "2"
            await asyncio.wait_for(first.requests[0].closed_early.wait(), 10)
            assert await hedges(router) == ['router_hedges_total{outcome="won"} 1.0']
            await eventually(lambda: bool(router.store.usage_totals()))
            (total,) = router.store.usage_totals()
            assert (total.requests, total.prompt_tokens, total.completion_tokens) == (1, 7, 5)


async def test_first_backend_wins_where_it_begins_sooner(tmp_path: Path) -> None:
    """The second is hung up on, and the answer is the first one's, whole."""
    begin = asyncio.Event()

    async def silence(request: SeenRequest, _reply: ScriptedReply) -> None:
        begin.set()
        await request.closed_early.wait()

    async with scripted_upstream(slow(begin, "mine")) as first, scripted_upstream(silence) as second:
        async with live_router(tmp_path, manifest(first.url, second.url)) as router:
            answer = await router.chat(model="p", stream=True)
            assert "mine" in answer.text
            assert answer.headers["x-router-backend"] == "b0"
            assert answer.headers["x-router-attempts"] == "2"
            await asyncio.wait_for(second.requests[0].closed_early.wait(), 10)
            assert await hedges(router) == ['router_hedges_total{outcome="lost"} 1.0']


NEVER: list[tuple[str, dict[str, str]]] = [
    ("p", {"x-router-privacy": "local"}),
    ("p", {"x-router-fallback": "off"}),
    ("m", {}),
]


async def test_nothing_is_hedged_beyond_privacy_or_by_a_models_name(tmp_path: Path) -> None:
    """Whom privacy excludes is in no ranking; a model asked for by name has no policy, and so no hedge."""
    begin = asyncio.Event()
    async with scripted_upstream(slow(begin)) as first, scripted_upstream(say("elsewhere")) as second:
        text = manifest(first.url, second.url).replace("tier: external", "tier: local", 1)
        async with live_router(tmp_path, text) as router:
            asking = [
                asyncio.ensure_future(router.chat(model=model, stream=True, headers=headers))
                for model, headers in NEVER
            ]
            await eventually(lambda: len(first.requests) == len(NEVER))
            # One that may be hedged comes later and is: whatever the others would have set off is past.
            hedged = await router.chat("later", model="p", stream=True)
            assert hedged.headers["x-router-backend"] == "b1"
            begin.set()
            for answer in await asyncio.gather(*asking):
                assert answer.headers["x-router-backend"] == "b0"
                assert answer.headers["x-router-attempts"] == "1"
            assert [request.json["messages"][0]["content"] for request in second.requests] == ["later"]


async def test_client_that_leaves_a_race_closes_both(tmp_path: Path) -> None:
    """Neither backend goes on for nobody."""
    async with scripted_upstream(slow(asyncio.Event())) as first, scripted_upstream(slow(asyncio.Event())) as second:
        async with live_router(tmp_path, manifest(first.url, second.url)) as router:
            asking = asyncio.ensure_future(router.chat(model="p", stream=True))
            await eventually(lambda: bool(second.requests))
            asking.cancel()
            for upstream in (first, second):
                await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 10)
            health = router.services.health
            await eventually(lambda: all(state.in_flight == 0 for state in health.snapshot().values()))


async def test_budget_of_a_policy_holds_over_requests(tmp_path: Path) -> None:
    """Half as many second requests as requests, when every one is slow."""
    async with scripted_upstream(slow(asyncio.Event())) as first, scripted_upstream(say("in time")) as second:
        limits = "{first_token: 0.2}"
        text = manifest(first.url, second.url, hedge="{budget: 0.5, after_ms: 10}")
        text = text.replace("tier: external", f"tier: external, timeouts: {limits}, breaker: {{enabled: false}}", 1)
        async with live_router(tmp_path, text) as router:
            for _ in range(6):
                answer = await router.chat(model="p", stream=True)
                assert answer.headers["x-router-backend"] == "b1"
            assert await hedges(router) == ['router_hedges_total{outcome="won"} 3.0']


async def test_admin_tells_how_a_policy_hedges(tmp_path: Path) -> None:
    """The view of a policy has its hedge with every value; a policy that does not hedge has null."""
    async with live_router(tmp_path, manifest("http://127.0.0.1:1/v1", hedge="{}"), admin_key="k") as router:
        answer = await router.client.get("/admin/v1/policies", headers={"authorization": "Bearer k"})
        views = {policy["name"]: policy["hedge"] for policy in answer.json()["data"]}
        assert views["p"] == {"budget": 0.05, "after_ms": None}
        assert views["auto"] is None
