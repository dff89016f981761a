"""dispatch: the loop's invariants over any outcome of any candidate, with adapters that a test scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch import Committed, Dispatcher
from router.health import HealthBoard
from router.interfaces import Reply
from router.trail import Trail
from router.types import (
    Backend,
    Caller,
    Candidate,
    Chunk,
    Completion,
    Decision,
    Deployment,
    Event,
    Features,
    InferenceRequest,
    Model,
    Timeouts,
    Wishes,
)
from shared.errors import (
    AllCandidatesFailed,
    ContextLengthExceeded,
    ServiceError,
    StreamInterrupted,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from shared.sse import DONE

ROLE = Chunk(b"data: role\n\n")
WORD = Chunk(b"data: word\n\n", output=True)
END = Chunk(DONE, done=True)

FATES = ("answers", "fails", "rejects", "too_long", "ends_early", "fails_late")


@dataclass
class ScriptedAdapter:
    """A `BackendAdapter` whose every deployment meets the fate that its upstream model names."""

    tried: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def speaks(self, endpoint: str, candidate: Candidate) -> bool:
        """Speak every endpoint."""
        return True

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Fail at once, or return a reply, as the fate says."""
        self.tried.append(deployment.id)
        fate = deployment.upstream_model
        if fate == "fails":
            raise UpstreamUnavailable("down")
        if fate == "rejects":
            raise UpstreamRejected(422, {"message": "no"})
        if fate in ("full", "evicted"):
            error = UpstreamOverloaded(fate, retry_after=60)
            error.spent = fate == "evicted"
            raise error
        if fate == "too_long":
            raise ContextLengthExceeded("long")
        return ScriptedReply(fate, request.stream, lambda: self.closed.append(deployment.id))


@dataclass
class ScriptedReply:
    """A `Reply` that gives one event at a time, as its fate says."""

    fate: str
    stream: bool
    on_close: Callable[[], None]
    given: int = 0
    notes: Sequence[tuple[bytes, bytes]] = ()

    async def more(self, until: float) -> Sequence[Event]:
        """Return the next event."""
        if self.fate == "silent" or (self.fate == "hangs" and self.given == 2):
            await asyncio.sleep(max(0.0, until - time.perf_counter()))
            raise TimeoutError
        script: list[Event] = [ROLE, WORD, END] if self.stream else [Completion(b"{}")]
        self.given += 1
        if self.fate == "ends_early":
            script = [ROLE]
        if (self.fate, self.given) in (("fails_late", 2), ("cut", 3)):
            raise UpstreamUnavailable(self.fate)
        return script[self.given - 1 : self.given]

    async def pump(self, take: Callable[[Sequence[Event]], bool], idle: float, ends: float) -> bool:
        """Hand on one event after another."""
        while events := await self.more(min(time.perf_counter() + idle, ends)):
            if not take(events):
                return False
        return True

    async def close(self) -> None:
        """Note that the exchange has ended."""
        self.on_close()


async def rest(committed: Committed) -> list[Event]:
    """Return all events of an answer."""
    seen: list[Event] = []
    while events := await committed.more():
        seen += events
    return seen


def request_for(stream: bool = True, wishes: Wishes | None = None) -> InferenceRequest:
    """Return a small request."""
    caller = Caller("c", "c")
    return InferenceRequest("r", "chat", "m", stream, b"{}", {}, caller, wishes or Wishes())


def decision_for(fates: list[str], contexts: list[int | None] | None = None) -> Decision:
    """Return a decision that ranks one deployment for each fate."""
    ranking = []
    for index, fate in enumerate(fates):
        timeouts = Timeouts(first_token=0.05, idle=0.05, total=5)
        backend = Backend(f"b{index}", "openai", "http://127.0.0.1:1", "external", timeouts=timeouts)
        place = Deployment(f"m{index}@b{index}", f"m{index}", backend, fate)
        context = contexts[index] if contexts else None
        ranking.append(Candidate(Model(f"m{index}", (place,), context_length=context), place))
    features = Features(frozenset({"chat"}), 1, 0, None, True)
    return Decision("d", "m", None, tuple(ranking), (), features, 0, 1)


@given(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=6), budget=st.integers(1, 4))
def test_dispatch_keeps_its_invariants(fates: list[str], budget: int) -> None:
    """The tries follow the ranking, stay in budget, stop at a verdict, and leave nothing open."""

    async def run() -> None:
        adapter, health = ScriptedAdapter(), HealthBoard()
        dispatcher = Dispatcher({"openai": adapter}, health, attempts=budget)
        decision, trail = decision_for(fates), Trail(time.perf_counter())
        ranked = [candidate.deployment.id for candidate in decision.ranking]
        winner: str | None = None
        try:
            committed = await dispatcher.send(request_for(), decision, trail)
        except ServiceError:
            pass
        else:
            winner = committed.candidate.deployment.id
            assert await rest(committed) == [ROLE, WORD, END]
            await committed.close()
        first, again = adapter.tried[: len(ranked)], adapter.tried[len(ranked) :]
        assert first == ranked[: len(first)]
        assert again == [name for name in first if fates[ranked.index(name)] != "too_long"][: len(again)]
        assert len(adapter.tried) <= budget
        opened = [
            name for name in adapter.tried if fates[ranked.index(name)] in ("answers", "ends_early", "fails_late")
        ]
        assert adapter.closed == opened
        assert [attempt.deployment for attempt in trail.attempts] == adapter.tried
        last = {"answers": None, "rejects": None}
        assert all(fate not in last for fate in fates[: len(first) - 1])
        if winner is not None:
            assert fates[ranked.index(winner)] == "answers"
        elif "answers" in fates[:budget] and "rejects" not in fates[:budget]:
            raise AssertionError("a candidate within the budget would have answered")
        assert all(state.in_flight == 0 for state in health.snapshot().values())

    asyncio.run(run())


async def test_dispatch_gives_up_on_silence_and_moves_on() -> None:
    """A first token that does not come in time is a failed attempt."""
    adapter = ScriptedAdapter()
    dispatcher = Dispatcher({"openai": adapter}, HealthBoard())
    trail = Trail(time.perf_counter())
    committed = await dispatcher.send(request_for(), decision_for(["silent", "answers"]), trail)
    await committed.close()
    assert [attempt.error for attempt in trail.attempts] == ["upstream_timeout", None]


async def test_dispatch_stops_at_the_deadline_and_blames_nobody() -> None:
    """A deadline in the request bounds all attempts together, and counts against no backend."""
    health = HealthBoard()
    dispatcher = Dispatcher({"openai": ScriptedAdapter()}, health, attempts=10)
    for _ in range(6):
        with pytest.raises(UpstreamTimeout):
            await dispatcher.send(
                request_for(wishes=Wishes(deadline_ms=5)), decision_for(["silent"] * 5), Trail(time.perf_counter())
            )
    assert all(state.available and state.failure_rate == 0 for state in health.snapshot().values())


async def test_dispatch_learns_the_first_token_from_streams_alone() -> None:
    """How long a whole answer takes says nothing of its first token."""
    health = HealthBoard()
    dispatcher = Dispatcher({"openai": ScriptedAdapter()}, health)
    for stream, known in ((False, False), (True, True)):
        committed = await dispatcher.send(request_for(stream), decision_for(["answers"]), Trail(time.perf_counter()))
        await committed.close()
        assert (health.snapshot()["m0@b0"].first_token_ms is not None) is known


async def test_dispatch_interrupts_a_stream_that_is_cut() -> None:
    """After the commit point a failure is told as an interruption, never as a clean end."""
    dispatcher = Dispatcher({"openai": ScriptedAdapter()}, HealthBoard())
    committed = await dispatcher.send(request_for(), decision_for(["cut", "answers"]), Trail(time.perf_counter()))
    seen: list[Event] = []
    with pytest.raises(StreamInterrupted):
        while events := await committed.more():
            seen += events
    await committed.close()
    assert seen == [ROLE, WORD]


async def test_dispatch_blames_nobody_for_a_deadline_in_mid_stream() -> None:
    """The request's own deadline is told as that, also where the answer is under way."""
    health = HealthBoard()
    dispatcher = Dispatcher({"openai": ScriptedAdapter()}, health)
    trail = Trail(time.perf_counter())
    committed = await dispatcher.send(request_for(wishes=Wishes(deadline_ms=20)), decision_for(["hangs"]), trail)
    with pytest.raises(StreamInterrupted):
        while True:
            await committed.pump(lambda _events: True)
    await committed.close()
    assert all(state.available and state.failure_rate == 0 for state in health.snapshot().values())


async def test_dispatch_tries_only_larger_contexts_after_one_was_too_small() -> None:
    """A prompt that is too long for one model is not sent to another of the same size."""
    adapter = ScriptedAdapter()
    dispatcher = Dispatcher({"openai": adapter}, HealthBoard(), attempts=5)
    decision = decision_for(["too_long", "answers", "answers"], [1000, 1000, 8000])
    committed = await dispatcher.send(request_for(), decision, Trail(time.perf_counter()))
    await committed.close()
    assert adapter.tried == ["m0@b0", "m2@b2"]


async def test_dispatch_tries_once_without_fallback() -> None:
    """A request that wishes no fallback has one attempt."""
    adapter = ScriptedAdapter()
    dispatcher = Dispatcher({"openai": adapter}, HealthBoard())
    wishes = Wishes(fallback=False)
    with pytest.raises(UpstreamUnavailable):
        await dispatcher.send(request_for(wishes=wishes), decision_for(["fails", "answers"]), Trail(0.0))
    assert adapter.tried == ["m0@b0"]


async def test_dispatch_tells_how_many_failed() -> None:
    """Several failures become one error with the attempts in it."""
    dispatcher = Dispatcher({"openai": ScriptedAdapter()}, HealthBoard(), attempts=2)
    with pytest.raises(AllCandidatesFailed) as caught:
        await dispatcher.send(request_for(), decision_for(["fails", "ends_early"]), Trail(time.perf_counter()))
    assert len(caught.value.failures) == 2
