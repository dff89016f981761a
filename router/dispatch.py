"""send(): a request along its ranking, to one answer past its commit point."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from router.course import Begun, Course, Desk
from router.health import HealthBoard
from router.hedging import HedgeBudget, HedgedCourse, HedgeResult, hedgeable
from router.interfaces import BackendAdapter, Bridges, Headers
from router.limits.limiter import Limiter, Reservation
from router.resume import Joint
from router.retries import WaitingRoom
from router.trail import Trail
from router.types import Candidate, Chunk, Completion, Decision, Endpoint, Event, Hedge, InferenceRequest
from shared.errors import ServiceError, StreamInterrupted
from shared.sse import DONE

__all__ = ["Committed", "Dispatcher"]


_END = (Chunk(DONE, done=True),)


class Committed:
    """An answer past its commit point: the first events, and the rest as it comes, wherever it comes from.

    `close()` must be called whatever happens.
    """

    __slots__ = ("_attempt", "_bridge", "_course", "_joint", "_story")

    def __init__(self, course: Course, begun: Begun) -> None:
        self._course = course
        self._attempt, self._bridge, self._story = begun
        self._joint: Joint | None = None

    @property
    def candidate(self) -> Candidate:
        """Who answers now."""
        return self._attempt.candidate

    @property
    def reservation(self) -> Reservation:
        """What the answer takes of its deployment's limits."""
        return self._attempt.reservation

    @property
    def notes(self) -> Headers:
        """What the client gets to know besides the answer; see `Reply.notes`."""
        return self._attempt.notes

    async def more(self) -> Sequence[Event]:
        """Return the answer's next events; none mean that it is complete.

        Raises:
            StreamInterrupted: The backend failed in the middle, and nobody could continue.
        """
        while True:
            try:
                events = await self._attempt.more()
            except ServiceError as error:
                if await self._ended(error):
                    return self._told(_END)
                continue
            if not events or (self._story is None and self._bridge is None):
                return events
            if told := self._told(events):
                return told

    async def pump(self, take: Callable[[Sequence[Event]], bool]) -> None:
        """Hand on the answer's events as they come, until `take` says False or the answer is complete.

        Raises:
            StreamInterrupted: The backend failed in the middle, and nobody could continue.
        """
        tell = take
        if self._bridge is not None or self._joint is not None:
            tell = self._telling(take)
        elif self._story is not None:
            tell = self._story.beside(take)
        while True:
            try:
                await self._attempt.pump(tell)
            except ServiceError as error:
                if not await self._ended(error):
                    tell = self._telling(take)
                    continue
                take(self._told(_END))
            return

    def _telling(self, take: Callable[[Sequence[Event]], bool]) -> Callable[[Sequence[Event]], bool]:
        return lambda events: take(self._told(events))

    def _told(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events as the client gets them."""
        if self._joint is not None:
            events = [self._joint.feed(event) for event in events if isinstance(event, Chunk)]
        if self._story is not None:
            self._story.keep(events)
        bridge = self._bridge
        if bridge is not None:
            events = [bridge.whole(e) if isinstance(e, Completion) else bridge.feed(e) for e in events]
        return events

    async def _ended(self, error: ServiceError) -> bool:
        """Go on elsewhere with what a failed backend left unsaid; say whether that was nothing but the end.

        Raises:
            StreamInterrupted: Nobody could.
        """
        story, attempt = self._story, self._attempt
        if story is not None and story.finished:
            return True
        interrupted = StreamInterrupted(f"The answer was cut off. {error.message}")
        if story is None:
            raise interrupted from error
        await attempt.close()
        # What was delivered up to here is used up, whoever goes on.
        attempt.reservation.settle(story.pieces)
        try:
            self._attempt, self._joint = await self._course.resume(story, attempt.candidate, error)
        except ServiceError as last:
            raise interrupted from last
        return False

    async def close(self) -> None:
        """End the exchange; calling it again does nothing."""
        await self._attempt.close()


class Dispatcher:
    """Sends a request along a decision's ranking until one candidate commits to an answer.

    Args:
        adapters: Dialect to adapter.
        health: Learns from every attempt.
        attempts: The attempt budget of one request.
        deadline: Seconds that one request may take, where it wishes no other limit.
        limiter: Keeps deployments within their limits; None: each process for itself.
        bridges: How endpoints that a backend does not speak are carried over chat.
        stand_ins: Who answers an endpoint in the place of a backend that does not speak it.
        hedged: Told what became of each second request.
        room: Where requests wait for a cluster that is starting; None: nobody waits.
    """

    def __init__(
        self,
        adapters: Mapping[str, BackendAdapter],
        health: HealthBoard,
        attempts: int = 3,
        deadline: float = 600.0,
        clock: Callable[[], float] = time.perf_counter,
        limiter: Limiter | None = None,
        bridges: Bridges | None = None,
        stand_ins: Mapping[Endpoint, BackendAdapter] | None = None,
        hedged: Callable[[HedgeResult], object] = lambda _result: None,
        room: WaitingRoom | None = None,
    ) -> None:
        limits, waiting = limiter or Limiter(), room or WaitingRoom()
        self._desk = Desk(adapters, bridges or {}, stand_ins or {}, health, limits, attempts, deadline, clock, waiting)
        self._budget = HedgeBudget()
        self._hedged = hedged

    async def send(
        self, request: InferenceRequest, decision: Decision, trail: Trail, hedge: Hedge | None = None
    ) -> Committed:
        """Return the first candidate's answer that reaches its commit point.

        Candidates are tried in order; one that fails in a way that another may not is followed by the next, as long
        as the attempt budget and the deadline last. Where nobody is left, one whose failure may have passed gets a
        second try, and a cluster that is starting is waited for. One that is at a limit of its own is passed over:
        that is no attempt. Where the policy hedges, one that is slow to begin may lose to the next.

        Raises:
            Overloaded: Every candidate is at a limit.
            ServiceError: The error of the only attempt, or of one that no other can mend.
            AllCandidatesFailed: Several attempts failed.
        """
        if hedge is None or not hedgeable(request):
            course = Course(self._desk, request, decision, trail)
        else:
            course = HedgedCourse(self._desk, request, decision, trail, hedge, self._budget, self._hedged)
        return Committed(course, await course.commit())
