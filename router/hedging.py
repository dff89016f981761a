"""Hedging: when a stream that is slow to begin may be asked for a second time, elsewhere, and the race of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import chain
from typing import Any, Literal, TypeVar

from msgspec import structs

from router.attempt import LiveAttempt
from router.course import Begun, Course, Desk, PassedOver, expected_tokens
from router.trail import Trail
from router.types import Candidate, Decision, Hedge, InferenceRequest
from shared.errors import ServiceError

__all__ = ["HedgeBudget", "HedgeResult", "HedgedCourse", "hedgeable", "race"]

T = TypeVar("T")

HedgeResult = Literal["won", "lost", "failed"]
"""Who answered: the second, the first, or neither."""
_KEPT = 200
"""What so many requests have saved up is kept; a longer quiet time buys no larger burst."""
_LOST = "hedge_lost"
"""How an attempt ends that another was faster than."""


def hedgeable(request: InferenceRequest) -> bool:
    """Return whether a request may be sent twice.

    How long a whole answer takes depends on its length, so that waiting for one says nothing of its backend; and
    what may go to one deployment alone cannot go to two.
    """
    return request.stream and request.wishes.fallback and request.pin is None


class HedgeBudget:
    """Keeps each policy's second requests below its share of the first ones, in this process.

    Every request saves a part of one, and a second request spends a whole: whatever the window, there are at most
    `budget` of them for each request in it, and what 200 requests have saved before.
    """

    def __init__(self) -> None:
        self._saved: dict[str, float] = {}

    def save(self, policy: str, hedge: Hedge) -> None:
        """Note a request that might need a second one."""
        saved = self._saved.get(policy, 0.0) + hedge.budget
        self._saved[policy] = min(saved, max(1.0, hedge.budget * _KEPT))

    def spend(self, policy: str) -> bool:
        """Return whether a policy can afford a second request, which it then has had."""
        saved = self._saved.get(policy, 0.0)
        # Twenty times 0.05 is a little less than one.
        if saved < 1 - 1e-9:
            return False
        self._saved[policy] = max(0.0, saved - 1)
        return True


async def race(
    first: Coroutine[Any, Any, T | None],
    delay: float,
    second: Callable[[], Coroutine[Any, Any, T | None] | None],
    settled: Callable[[], None],
    late: Callable[[T], Awaitable[None]],
) -> T | None:
    """Return what the first of two comes to, or the second if that is sooner; None where both come to nothing.

    Whoever is slower is cancelled and has ended when this returns; so have both where this is cancelled itself.

    Args:
        first: Begins at once. What it raises ends the race.
        delay: Seconds after which there is a second.
        second: Makes it; None: there is none after all.
        settled: Called once the race is decided, before anybody is cancelled.
        late: Ends what came from the slower one all the same.
    """
    runners = [asyncio.ensure_future(first)]
    winner: asyncio.Task[T | None] | None = None
    try:
        await asyncio.wait(runners, timeout=delay)
        if not runners[0].done() and (other := second()) is not None:
            runners.append(asyncio.ensure_future(other))
        winner = await _winner(runners)
        settled()
    except asyncio.CancelledError:
        await _end(runners, late)
        raise
    except BaseException:
        settled()
        await _end(runners, late)
        raise
    try:
        await _end([runner for runner in runners if runner is not winner], late)
    except BaseException:
        await _end(runners, late)
        raise
    return None if winner is None else winner.result()


async def _winner(runners: list[asyncio.Task[T | None]]) -> asyncio.Task[T | None] | None:
    """Return the first that comes to something; of two at once the earlier in the list."""
    left = set(runners)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for runner in runners:
            if runner in done and runner.result() is not None:
                return runner
    return None


async def _end(runners: list[asyncio.Task[T | None]], late: Callable[[T], Awaitable[None]]) -> None:
    """Cancel whoever still runs, wait for them, and end what they came to all the same."""
    running = [runner for runner in runners if not runner.done()]
    for runner in running:
        runner.cancel()
    if running:
        await asyncio.wait(running)
    for runner in runners:
        if not runner.cancelled() and runner.exception() is None and (result := runner.result()) is not None:
            await late(result)


class HedgedCourse(Course):
    """A course on which one candidate that is slow to begin may lose to the next.

    Args:
        hedge: When, and how often.
        budget: What all requests of the policy may spend on it.
        told: Told what became of a second request.
    """

    __slots__ = ("_budget", "_hedge", "_policy", "_settled", "_told")

    def __init__(
        self,
        desk: Desk,
        request: InferenceRequest,
        decision: Decision,
        trail: Trail,
        hedge: Hedge,
        budget: HedgeBudget,
        told: Callable[[HedgeResult], object],
    ) -> None:
        super().__init__(desk, request, decision, trail)
        self._policy = decision.policy or ""
        self._hedge: Hedge | None = hedge
        """None once there has been a second request."""
        self._budget = budget
        self._told = told
        self._settled = False
        """Whether the race is decided, so that the slower one is being given up."""
        budget.save(self._policy, hedge)

    async def _ask(self, candidate: Candidate) -> Begun:
        after = self._delay(candidate)
        if after is None:
            return await super()._ask(candidate)
        rivals: list[Candidate] = []

        def second() -> Coroutine[Any, Any, Begun | None] | None:
            if (rival := self._rival(candidate)) is None:
                return None
            self._hedge = None
            rivals.append(rival)
            return self._try(rival)

        begun: Begun | None = None
        try:
            begun = await race(self._try(candidate), after, second, self._settle, self._lose)
        finally:
            self._settled = False
            if rivals:
                won = begun is not None and begun.attempt.candidate is rivals[0]
                self._told("won" if won else "failed" if begun is None else "lost")
        if begun is None:
            raise PassedOver("Whoever was asked has failed.")
        self._trail.deployment = begun.attempt.candidate.deployment
        return begun

    def _delay(self, candidate: Candidate) -> float | None:
        """Return the seconds after which a candidate is slow to begin, or None where nothing follows from that."""
        if self._hedge is None:
            return None
        after = self._hedge.after_ms
        slow = self._desk.health.slow_ms(candidate.deployment) if after is None else after
        return None if slow is None else slow / 1000

    async def _try(self, candidate: Candidate) -> Begun | None:
        try:
            return await super()._ask(candidate)
        except ServiceError as error:
            self._learn(candidate, error)
            return None

    def _rival(self, slow: Candidate) -> Candidate | None:
        """Return who may be asked besides one that is slow to begin: the next, elsewhere, where there is room."""
        desk = self._desk
        if self._left <= 0 or desk.clock() >= self._ends or (rival := self._next()) is None:
            return None
        place = rival.deployment
        if (
            place.backend.name != slow.deployment.backend.name
            and desk.health.spare(place)
            and not desk.limiter.crowded(place, expected_tokens(self.decision))
            and self._budget.spend(self._policy)
        ):
            return rival
        self._candidates = chain((rival,), self._candidates)
        return None

    def _settle(self) -> None:
        self._settled = True

    def _cancelled(self, attempt: LiveAttempt, waited: float) -> str:
        if not self._settled:
            return super()._cancelled(attempt, waited)
        # It may charge for the prompt, which it has read, and has said nothing.
        attempt.reservation.settle(self.decision.features.prompt_tokens)
        self._desk.health.outwaited(attempt.candidate.deployment, waited * 1000)
        return _LOST

    async def _lose(self, begun: Begun) -> None:
        """Give up an answer that began at the very moment at which another did."""
        attempt, notes = begun.attempt, self._trail.attempts
        place = attempt.candidate.deployment.id
        notes[:] = [structs.replace(note, error=_LOST) if note.deployment == place else note for note in notes]
        attempt.reservation.settle(self.decision.features.prompt_tokens)
        await attempt.close()
