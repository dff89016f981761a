"""dispatch and limits: who is at a limit is passed over, and what was reserved is given back."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from msgspec import structs

from router.dispatch import Committed, Dispatcher
from router.health import HealthBoard
from router.limits.limiter import Limiter
from router.trail import Trail
from router.types import Decision, Features, Limits
from shared.errors import Overloaded, UpstreamOverloaded, UpstreamUnavailable
from tests.router.test_dispatch import ScriptedAdapter, decision_for, request_for


def limited(fates: list[str], *limits: Limits) -> Decision:
    """Return a decision whose deployments have limits."""
    decision = decision_for(fates)
    places = [replace(found.deployment, limits=of) for found, of in zip(decision.ranking, limits, strict=True)]
    ranking = tuple(
        structs.replace(found, deployment=place) for found, place in zip(decision.ranking, places, strict=True)
    )
    features = Features(frozenset({"chat"}), 100, 0, 50, True)
    return structs.replace(decision, ranking=ranking, features=features)


class Router:
    """A dispatcher with what it works with."""

    def __init__(self, attempts: int = 3) -> None:
        self.limiter, self.adapter, self.health = Limiter(), ScriptedAdapter(), HealthBoard()
        adapters = {"openai": self.adapter}
        self.dispatcher = Dispatcher(adapters, self.health, attempts=attempts, limiter=self.limiter)
        self.trail = Trail(time.perf_counter())

    async def send(self, decision: Decision) -> Committed:
        """Send one request."""
        self.trail = Trail(time.perf_counter())
        return await self.dispatcher.send(request_for(), decision, self.trail)


async def test_deployment_at_its_limit_is_passed_over() -> None:
    """The next candidate answers; no attempt is noted, none of the budget is used, and nobody's health suffers."""
    router = Router(attempts=1)
    decision = limited(["answers", "answers"], Limits(rpm=1), Limits())
    first, second = await router.send(decision), await router.send(decision)
    assert first.candidate is decision.ranking[0]
    assert second.candidate is decision.ranking[1]
    assert [attempt.deployment for attempt in router.trail.attempts] == ["m1@b1"]
    await first.close()
    await second.close()


async def test_request_without_any_room_is_told_when_to_come_again() -> None:
    """Where every candidate is at a limit, the answer is `overloaded`, with the reasons and the soonest time."""
    router = Router()
    decision = limited(["answers", "answers"], Limits(rpm=1), Limits(max_concurrency=1))
    held = [await router.send(decision) for _ in range(2)]
    with pytest.raises(Overloaded) as refused:
        await router.send(decision)
    assert "1 requests a minute are used up; 1 requests are in flight" in refused.value.message
    assert refused.value.status == 503
    assert refused.value.retry_after == 1
    assert router.trail.attempts == []
    for committed in held:
        await committed.close()


async def test_failures_before_the_limit_tell_more() -> None:
    """What went wrong at a backend is told rather than that the next had no room."""
    router = Router()
    decision = limited(["fails", "answers"], Limits(), Limits(rpm=1))
    await (await router.send(decision)).close()
    with pytest.raises(UpstreamUnavailable):
        await router.send(decision)


async def test_slot_is_free_once_the_answer_has_ended() -> None:
    """An answer holds its slot to its end, an attempt that fails to its failure."""
    router = Router()
    decision = limited(["answers"], Limits(max_concurrency=1))
    committed = await router.send(decision)
    with pytest.raises(Overloaded):
        await router.send(decision)
    await committed.close()
    await (await router.send(decision)).close()
    failing = limited(["fails"], Limits(max_concurrency=1))
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await router.send(failing)


async def test_tokens_are_reserved_as_estimated_and_corrected() -> None:
    """A request reserves prompt and `max_tokens`; what it did not use is free again, all of it where it failed."""
    router = Router()
    place = Limits(tpm=310)
    committed = await router.send(limited(["answers"], place))
    await (await router.send(limited(["answers"], place))).close()
    with pytest.raises(Overloaded):
        await router.send(limited(["answers"], place))
    committed.reservation.settle(10)
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable):
            await router.send(limited(["fails"], place))
    assert router.limiter.reserve(limited(["answers"], place).ranking[0].deployment, 150) is not None
    await committed.close()


async def test_work_that_a_backend_gave_up_has_used_tokens() -> None:
    """A full queue costs nothing of a budget; a request that was evicted for another had been worked on."""
    for fate, left in (("full", True), ("evicted", False)):
        router = Router(attempts=1)
        decision = limited([fate], Limits(tpm=200))
        with pytest.raises(UpstreamOverloaded):
            await router.send(decision)
        with pytest.raises(UpstreamOverloaded if left else Overloaded):
            await router.send(decision)
        assert len(router.adapter.tried) == 1 + left
