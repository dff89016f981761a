"""The breaker on a live router: whose faults open it, what an outage costs, and how it closes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, completion, fail, say, scripted_upstream
from tests.support.waiting import eventually

QUICK = "{failures: 2, cooldown: 0.3}"
LONG = "{failures: 2, cooldown: 60}"


def first_is_up(router: LiveRouter) -> bool:
    """Return whether the first backend's breaker lets a request through."""
    return router.services.health.snapshot()["m@b0"].available


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_callers_mistakes_never_open_it(tmp_path: Path, status: int) -> None:
    """Five hundred 4xx in a row reach one backend and no other, and a good request after them too."""
    async with scripted_upstream(fail(status)) as first, scripted_upstream() as second:
        async with live_router(tmp_path, manifest_for(first.url, second.url, breaker=LONG)) as router:
            for _ in range(10):
                answers = await asyncio.gather(*(router.chat() for _ in range(50)))
                assert {answer.status_code for answer in answers} == {status}
            first.script = say("well")
            assert (await router.chat()).headers["x-router-backend"] == "b0"
            assert len(first.requests) == 501
            assert second.requests == []


async def test_outage_costs_one_probe_an_interval(tmp_path: Path) -> None:
    """Once open, one of many requests goes to a backend that is down; the others lose no time with it."""
    release = asyncio.Event()

    async def held(request: SeenRequest, reply: ScriptedReply) -> None:
        await release.wait()
        await fail(500)(request, reply)

    async with scripted_upstream(fail(500)) as down, scripted_upstream(say("saved")) as good:
        async with live_router(tmp_path, manifest_for(down.url, good.url, breaker=QUICK)) as router:
            for _ in range(2):
                assert (await router.chat()).headers["x-router-backend"] == "b1"
            down.script = held
            for interval in range(3):
                release.clear()
                await eventually(lambda: first_is_up(router))
                asking = [asyncio.ensure_future(router.chat()) for _ in range(30)]
                await eventually(lambda asked=asking: sum(task.done() for task in asked) == 29)  # type: ignore[misc]
                assert len(down.requests) == 3 + interval
                release.set()
                answers = await asyncio.gather(*asking)
                assert {answer.headers["x-router-backend"] for answer in answers} == {"b1"}


async def test_one_good_probe_closes_it(tmp_path: Path) -> None:
    """After one good answer every request goes to the first choice again."""
    async with scripted_upstream(fail(500)) as first, scripted_upstream(say("saved")) as second:
        async with live_router(tmp_path, manifest_for(first.url, second.url, breaker=QUICK)) as router:
            for _ in range(2):
                await router.chat()
            first.script = say("back")
            await eventually(lambda: first_is_up(router))
            answers = [await router.chat() for _ in range(5)]
            assert {answer.headers["x-router-backend"] for answer in answers} == {"b0"}


async def test_probe_whose_client_leaves_does_not_stick(tmp_path: Path) -> None:
    """A probe without a verdict lets the next request probe."""

    async def silence(request: SeenRequest, _reply: ScriptedReply) -> None:
        await request.closed_early.wait()

    async with scripted_upstream(fail(500)) as first, scripted_upstream(say("saved")) as second:
        async with live_router(tmp_path, manifest_for(first.url, second.url, breaker=QUICK)) as router:
            for _ in range(2):
                await router.chat()
            first.script = silence
            await eventually(lambda: first_is_up(router))
            probing = asyncio.ensure_future(router.chat())
            await eventually(lambda: len(first.requests) == 3)
            assert (await router.chat()).headers["x-router-backend"] == "b1"  # one probe at a time
            probing.cancel()
            await asyncio.wait_for(first.requests[2].closed_early.wait(), 10)
            first.script = say("back")
            await eventually(lambda: first_is_up(router))
            assert (await router.chat()).headers["x-router-backend"] == "b0"


async def test_rest_that_was_asked_for_is_kept_and_told(tmp_path: Path) -> None:
    """A backend that asked for 30 seconds is not asked again, and clients hear when it may be."""
    async with scripted_upstream(fail(429, headers={"retry-after": "30"})) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            limited, resting = await router.chat(), await router.chat()
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "30")
    assert resting.status_code == 503
    assert 28 <= int(resting.headers["retry-after"]) <= 30
    assert_openai_error(resting, "no_candidate")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("status", "told"), [(429, 429), (503, 503), (529, 529), (500, 502), (504, 504)])
async def test_no_capacity_is_told_as_what_it_is(tmp_path: Path, status: int, told: int) -> None:
    """What says "not now" keeps its status and its `Retry-After`, also where several said so."""
    script = fail(status, headers={"retry-after": "40"})
    async with scripted_upstream(script) as one, scripted_upstream(script) as other:
        other.script = fail(status, headers={"retry-after": "20"})
        async with live_router(tmp_path, manifest_for(one.url, other.url)) as router:
            answer = await router.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (told, "20")
    assert answer.headers["x-router-attempts"] == "2"


async def test_full_queue_is_no_fault(tmp_path: Path) -> None:
    """A backend that is full is passed to the next and asked again by the next request."""
    full = {"error": {"message": "The queue is full.", "type": "server_error", "param": None, "code": "overloaded"}}
    async with scripted_upstream(fail(503, full)) as first, scripted_upstream(say("saved")) as second:
        async with live_router(tmp_path, manifest_for(first.url, second.url, breaker=LONG)) as router:
            for _ in range(6):
                assert (await router.chat()).headers["x-router-backend"] == "b1"
            assert len(first.requests) == 6


async def test_sessions_stay_where_they_are_and_move_when_they_must(tmp_path: Path) -> None:
    """At least 95 in 100 turns stay with the backend of their session; one that fails gives its sessions to others."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(completion("turn"))

    async with scripted_upstream(script) as one, scripted_upstream(script) as two, scripted_upstream(script) as three:
        text = manifest_for(one.url, two.url, three.url, breaker=LONG)
        for priority in (1, 2):
            text = text.replace(f"priority: {priority}", "priority: 0")
        async with live_router(tmp_path, text) as router:

            async def turn(session: int) -> str:
                wish = {"x-router-session": f"s{session}", "x-router-cache": "off"}
                answer = await router.chat(model="auto", headers=wish)
                assert answer.status_code == 200
                return answer.headers["x-router-backend"]

            homes = [await turn(session) for session in range(30)]
            assert len(set(homes)) == 3
            turns = [(await turn(session)) == homes[session] for _ in range(5) for session in range(30)]
            assert sum(turns) >= 0.95 * len(turns)
            one.script = fail(500)
            moved = [[await turn(session) for session in range(30)] for _ in range(3)]
            assert "b0" not in {backend for turns_ in moved for backend in turns_}
            assert moved[1] == moved[2]
            assert all(m == h for m, h in zip(moved[2], homes, strict=True) if h != "b0")
