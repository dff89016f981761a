"""Courses that hedge: who is asked besides a slow one, who answers, and what becomes of the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from msgspec import structs

from router.dispatch import Committed, Dispatcher
from router.health import HealthBoard
from router.interfaces import Reply
from router.limits.limiter import Limiter
from router.retries import WaitingRoom
from router.trail import Trail
from router.types import (
    Candidate,
    Decision,
    Deployment,
    Event,
    Features,
    Hedge,
    InferenceRequest,
    Limits,
    Timeouts,
    Wishes,
)
from shared.errors import (
    ContextLengthExceeded,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamStarting,
    UpstreamUnavailable,
)
from tests.router.test_dispatch import END, ROLE, WORD, decision_for, request_for, rest
from tests.support.waiting import eventually

SOON = Hedge(1.0, after_ms=1)


class GatedAdapter:
    """A `BackendAdapter` whose deployments answer when the test opens their gate, or meet their fate."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.closed: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.asked: dict[str, asyncio.Event] = {}

    def gate(self, name: str) -> asyncio.Event:
        """Return what a deployment's answer waits for."""
        return self.gates.setdefault(name, asyncio.Event())

    def seen(self, name: str) -> asyncio.Event:
        """Return what is set once a deployment has been asked."""
        return self.asked.setdefault(name, asyncio.Event())

    def speaks(self, endpoint: str, candidate: Candidate) -> bool:
        """Speak every endpoint."""
        return True

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Return a reply whose output waits for the gate."""
        self.tried.append(deployment.id)
        self.seen(deployment.id).set()
        if deployment.upstream_model == "fails":
            raise UpstreamUnavailable("down")
        if deployment.upstream_model == "starts":
            raise ContextLengthExceeded("too long") if len(self.tried) > 1 else UpstreamStarting("not yet")
        if deployment.upstream_model == "rejects":
            raise UpstreamRejected(422, {"message": "no"})
        return GatedReply(self, deployment, until)


class GatedReply:
    """A `Reply` that says its role at once and the rest once its gate is open."""

    notes: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, adapter: GatedAdapter, deployment: Deployment, until: float) -> None:
        self._adapter = adapter
        self._name = deployment.id
        self._fate = deployment.upstream_model
        self._script: list[Event] = [ROLE, WORD, END]

    async def more(self, until: float) -> Sequence[Event]:
        """Return the next event."""
        if len(self._script) == 2 and self._fate != "answers":
            await self._adapter.gate(self._name).wait()
            if self._fate == "fails_late":
                raise UpstreamUnavailable("down, after all")
        return (self._script.pop(0),) if self._script else ()

    async def pump(self, take: Callable[[Sequence[Event]], bool], idle: float, ends: float) -> bool:
        """Hand on one event after another."""
        while events := await self.more(ends):
            if not take(events):
                return False
        return True

    async def close(self) -> None:
        """Note that the exchange has ended."""
        self._adapter.closed.append(self._name)


class Router:
    """A dispatcher with what it works with."""

    def __init__(self, attempts: int = 3) -> None:
        self.adapter, self.health, self.limiter = GatedAdapter(), HealthBoard(), Limiter()
        self.told: list[str] = []
        self.dispatcher = Dispatcher(
            {"openai": self.adapter},
            self.health,
            attempts=attempts,
            limiter=self.limiter,
            hedged=self.told.append,
            room=WaitingRoom(60, 1),
        )
        self.trail = Trail(time.perf_counter())

    def send(
        self, decision: Decision, hedge: Hedge | None = SOON, request: InferenceRequest | None = None
    ) -> asyncio.Task[Committed]:
        """Send one request."""
        self.trail = Trail(time.perf_counter())
        return asyncio.ensure_future(self.dispatcher.send(request or request_for(), decision, self.trail, hedge))

    def notes(self) -> list[tuple[str, str | None]]:
        """Return who was tried, and what became of it."""
        return [(attempt.deployment, attempt.error) for attempt in self.trail.attempts]


def ranked(*fates: str, **limits: Limits) -> Decision:
    """Return a policy's decision that ranks a deployment for each fate, with limits for some (`b0=...`)."""
    decision = decision_for(list(fates))
    ranking = []
    for found in decision.ranking:
        backend = replace(found.deployment.backend, timeouts=Timeouts())
        name = backend.name
        place = replace(found.deployment, backend=backend, limits=limits.get(name, Limits()))
        ranking.append(structs.replace(found, deployment=place))
    features = Features(frozenset({"chat"}), 100, 0, 50, True)
    return structs.replace(decision, ranking=tuple(ranking), policy="auto", features=features)


async def test_second_answers_where_the_first_is_slow() -> None:
    """The next is asked after the delay, answers, and the first is closed before the client hears a word."""
    router = Router()
    committed = await router.send(ranked("slow", "answers"))
    assert committed.candidate.deployment.id == "m1@b1"
    assert router.adapter.closed == ["m0@b0"]
    assert router.notes() == [("m1@b1", None), ("m0@b0", "hedge_lost")]
    assert router.trail.deployment is committed.candidate.deployment
    assert router.told == ["won"]
    assert await rest(committed) == [ROLE, WORD, END]
    await committed.close()
    assert all(state.in_flight == 0 and state.failure_rate == 0 for state in router.health.snapshot().values())


async def test_first_wins_where_it_is_sooner_after_all() -> None:
    """The second is given up as soon as the first begins, and the request is the first one's."""
    router = Router()
    sending = router.send(ranked("slow", "slow"))
    await router.adapter.seen("m1@b1").wait()
    router.adapter.gate("m0@b0").set()
    committed = await sending
    assert committed.candidate.deployment.id == "m0@b0"
    assert router.trail.deployment is committed.candidate.deployment
    assert router.notes() == [("m0@b0", None), ("m1@b1", "hedge_lost")]
    assert router.told == ["lost"]
    await committed.close()
    assert router.adapter.closed == ["m1@b1", "m0@b0"]


async def test_both_at_once_are_one_answer() -> None:
    """Where both begin in the same turn one is given up, and noted as that."""
    router = Router()
    sending = router.send(ranked("slow", "slow"))
    await router.adapter.seen("m1@b1").wait()
    await asyncio.sleep(0)
    router.adapter.gate("m0@b0").set()
    router.adapter.gate("m1@b1").set()
    committed = await sending
    await committed.close()
    assert sorted(router.adapter.closed) == ["m0@b0", "m1@b1"]
    assert sorted(error or "" for _, error in router.notes()) == ["", "hedge_lost"]
    assert all(state.in_flight == 0 for state in router.health.snapshot().values())


async def test_failure_before_the_delay_is_an_ordinary_fallback() -> None:
    """One that fails at once is followed by the next; that is no hedge."""
    router = Router()
    committed = await router.send(ranked("fails", "answers"), Hedge(1.0, after_ms=60_000))
    await committed.close()
    assert router.notes() == [("m0@b0", "upstream_unavailable"), ("m1@b1", None)]
    assert router.told == []


async def test_others_are_asked_where_both_fail() -> None:
    """The course goes on along the ranking, within its attempts, and tells that neither answered."""
    router = Router()
    sending = router.send(ranked("fails_late", "fails_late", "answers"))
    await router.adapter.seen("m1@b1").wait()
    router.adapter.gate("m0@b0").set()
    router.adapter.gate("m1@b1").set()
    committed = await sending
    await committed.close()
    assert committed.candidate.deployment.id == "m2@b2"
    assert len(router.notes()) == 3
    assert router.told == ["failed"]


async def test_second_answers_where_the_first_fails_meanwhile() -> None:
    """A failure of the first leaves the second running, which is asked once only."""
    router = Router()
    sending = router.send(ranked("fails_late", "slow"))
    await router.adapter.seen("m1@b1").wait()
    router.adapter.gate("m0@b0").set()
    await eventually(lambda: bool(router.notes()))
    router.adapter.gate("m1@b1").set()
    committed = await sending
    await committed.close()
    assert router.adapter.tried == ["m0@b0", "m1@b1"]
    assert router.told == ["won"]


async def test_callers_mistake_ends_the_race() -> None:
    """A verdict on the request from either is the answer; the other is given up."""
    router = Router()
    with pytest.raises(UpstreamRejected):
        await router.send(ranked("slow", "rejects", "answers"))
    assert router.adapter.closed == ["m0@b0"]
    assert router.adapter.tried == ["m0@b0", "m1@b1"]
    assert router.told == ["failed"]


async def test_client_that_leaves_ends_both() -> None:
    """Nothing goes on running for nobody, and nobody is blamed."""
    router = Router()
    sending = router.send(ranked("slow", "slow"))
    await router.adapter.seen("m1@b1").wait()
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert sorted(router.adapter.closed) == ["m0@b0", "m1@b1"]
    assert {error for _, error in router.notes()} == {"cancelled"}
    assert all(state.in_flight == 0 and state.failure_rate == 0 for state in router.health.snapshot().values())


async def test_only_one_is_asked_besides() -> None:
    """Where both are slow, a third is not asked."""
    router = Router()
    sending = router.send(ranked("slow", "slow", "answers"))
    await router.adapter.seen("m1@b1").wait()
    await asyncio.sleep(0.005)  # timers fire in their order: the delay's has
    assert router.adapter.tried == ["m0@b0", "m1@b1"]
    router.adapter.gate("m1@b1").set()
    await (await sending).close()


async def never_twice(router: Router, decision: Decision, **sent: object) -> None:
    """Check that a slow first is waited for, and then answers."""
    sending = router.send(decision, **sent)  # type: ignore[arg-type]
    await router.adapter.seen("m0@b0").wait()
    await asyncio.sleep(0.005)  # timers fire in their order: the delay's has
    assert router.adapter.tried[-1] == "m0@b0"
    router.adapter.gate("m0@b0").set()
    committed = await sending
    await committed.close()
    assert committed.candidate.deployment.id == "m0@b0"
    assert router.told == []


async def test_nobody_is_asked_twice_without_leave() -> None:
    """Not without the policy's word, the caller's, or the budget's; nor where nobody is left, or no attempt."""
    await never_twice(Router(), ranked("slow", "answers"), hedge=None)
    wishes = request_for(wishes=Wishes(fallback=False))
    await never_twice(Router(), ranked("slow", "answers"), request=wishes)
    await never_twice(Router(), ranked("slow", "answers"), hedge=Hedge(0.5, after_ms=1))
    await never_twice(Router(), ranked("slow"))
    await never_twice(Router(attempts=1), ranked("slow", "answers"))


async def test_nobody_is_asked_besides_where_there_is_no_room() -> None:
    """Four fifths of the slots in use, a spent rate, a queue known to be full, or an open breaker: no hedge."""
    crowded = Router()
    decision = ranked("slow", "answers", b1=Limits(max_concurrency=5))
    place = decision.ranking[1].deployment
    for _ in range(4):
        crowded.limiter.reserve(place, 0)
    await never_twice(crowded, decision)

    spent = Router()
    decision = ranked("slow", "answers", b1=Limits(rpm=1))
    spent.limiter.reserve(decision.ranking[1].deployment, 0)
    await never_twice(spent, decision)

    full = Router()
    decision = ranked("slow", "answers")
    full.health.fail(decision.ranking[1].deployment, UpstreamOverloaded("full", retry_after=30))
    await never_twice(full, decision)

    resting = Router()
    for _ in range(5):
        resting.health.fail(decision.ranking[1].deployment, UpstreamUnavailable("down"))
    await never_twice(resting, decision)


async def test_room_below_four_fifths_is_enough() -> None:
    """With three of five slots in use the next may be asked."""
    router = Router()
    decision = ranked("slow", "answers", b1=Limits(max_concurrency=5))
    for _ in range(3):
        router.limiter.reserve(decision.ranking[1].deployment, 0)
    committed = await router.send(decision)
    await committed.close()
    assert router.told == ["won"]


async def test_another_deployment_of_the_same_backend_is_not_elsewhere() -> None:
    """A backend that is slow is not asked again by another name, but stays in the ranking for a failure."""
    router = Router()
    decision = ranked("slow", "answers")
    first, second = decision.ranking
    place = replace(second.deployment, backend=first.deployment.backend)
    same = structs.replace(decision, ranking=(first, structs.replace(second, deployment=place)))
    await never_twice(router, same)
    failing = Router()
    first = structs.replace(first, deployment=replace(first.deployment, upstream_model="fails_late"))
    sending = failing.send(structs.replace(same, ranking=(first, same.ranking[1])))
    await failing.adapter.seen("m0@b0").wait()
    await asyncio.sleep(0.005)  # timers fire in their order: the delay's has
    failing.adapter.gate("m0@b0").set()
    await (await sending).close()
    assert failing.adapter.tried == ["m0@b0", "m1@b1"]


async def test_reservations_of_the_slower_keep_its_prompt_alone() -> None:
    """What it may charge is what it has read; its slot is free at once."""
    router = Router()
    decision = ranked("slow", "answers", b0=Limits(max_concurrency=1, tpm=250))
    await (await router.send(decision)).close()
    place = decision.ranking[0].deployment
    assert router.limiter.reserve(place, 151) is None
    assert router.limiter.reserve(place, 150) is not None


async def test_delay_is_the_deployments_own() -> None:
    """Without `after_ms` nobody is slow before 20 streams; then as long as 95 of 100 take, however few are slower."""
    router = Router()
    decision = ranked("slow", "answers")
    place = decision.ranking[0].deployment
    for _ in range(19):
        router.health.succeed(place, 0.5)
    await never_twice(router, decision, hedge=Hedge(1.0))
    router.adapter.gates.clear()
    assert router.health.slow_ms(place) is not None
    committed = await router.send(ranked("slow", "answers"), Hedge(1.0))
    await committed.close()
    assert router.told == ["won"]


async def test_wait_for_a_cluster_ends_with_what_no_wait_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that a cluster refuses once it has started is not sent again and again to the end of the wait."""
    for name in ("_FIRST", "_LONGEST", "_LEAST"):
        monkeypatch.setattr(f"router.retries.{name}", 0.005)
    router, decision = Router(), ranked("starts")
    found = decision.ranking[0]
    place = replace(found.deployment, backend=replace(found.deployment.backend, tier="cluster"))
    decision = structs.replace(decision, ranking=(structs.replace(found, deployment=place),))
    with pytest.raises(ContextLengthExceeded):
        await asyncio.wait_for(router.send(decision, Hedge(1.0, after_ms=10_000)), 20)
    assert len(router.adapter.tried) == 2
