"""send(): the only loop over candidates, with one attempt budget, one deadline, one commit point."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import cast

import anyio

from router.health import HealthBoard
from router.interfaces import BackendAdapter
from router.trail import Trail
from router.types import Candidate, Chunk, Completion, Decision, Deployment, Event, InferenceRequest
from shared.errors import (
    AllCandidatesFailed,
    ContextLengthExceeded,
    ServiceError,
    StreamInterrupted,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from shared.sse import DONE

__all__ = ["Committed", "Dispatcher"]


class _DeadlinePassed(UpstreamTimeout):
    """The request's own deadline passed: no fault of the backend's, and no time for another."""

    retryable = False


class _Exchange:
    """One attempt: an adapter's events under timers; each limit fires alone."""

    def __init__(self, events: AsyncIterator[Event], ends: float, deadline: float) -> None:
        self._events = cast("AsyncGenerator[Event, None]", events)
        self._ends = min(ends, deadline)
        self._late: type[UpstreamTimeout] = _DeadlinePassed if deadline <= ends else UpstreamTimeout

    async def next(self, limit: float, phase: str) -> Event | None:
        """Return the next event, or None at the end; `limit` is in seconds.

        Raises:
            UpstreamTimeout: `limit`, or the total limit, has passed.
        """
        left = self._ends - time.perf_counter()
        kind = UpstreamTimeout
        if left < limit:
            limit, phase, kind = left, "total", self._late
        try:
            with anyio.fail_after(max(0.0, limit)):
                return await anext(self._events, None)
        except TimeoutError as error:
            raise kind(f"The backend exceeded its {phase} limit.") from error

    async def close(self) -> None:
        """End the exchange with the backend at once."""
        await self._events.aclose()


class Committed:
    """An attempt past its commit point: the first events, and the rest as it comes.

    `close()` must be called whatever happens.
    """

    def __init__(
        self, candidate: Candidate, exchange: _Exchange, head: list[Event], health: HealthBoard, ticket: int
    ) -> None:
        self.candidate = candidate
        self.head = head
        self._exchange = exchange
        self._health = health
        self._ticket = ticket
        self._open = True

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield every event of the answer.

        Raises:
            StreamInterrupted: The backend failed in the middle.
        """
        for event in self.head:
            yield event
        deployment = self.candidate.deployment
        try:
            while (event := await self._exchange.next(deployment.backend.timeouts.idle, "idle")) is not None:  # type: ignore[assignment]
                yield event
        except ServiceError as error:
            if not isinstance(error, _DeadlinePassed):
                self._health.fail(deployment, error)
            raise StreamInterrupted(f"The answer was cut off. {error.message}") from error

    async def close(self) -> None:
        """End the exchange; calling it again does nothing."""
        if self._open:
            self._open = False
            self._health.end(self.candidate.deployment, self._ticket)
            await self._exchange.close()


class Dispatcher:
    """Sends a request along a decision's ranking until one candidate commits to an answer.

    Args:
        adapters: Dialect to adapter.
        health: Learns from every attempt.
        attempts: The attempt budget of one request.
        deadline: Seconds that one request may take, where it wishes no other limit.
    """

    def __init__(
        self,
        adapters: Mapping[str, BackendAdapter],
        health: HealthBoard,
        attempts: int = 3,
        deadline: float = 600.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._adapters = adapters
        self._health = health
        self._attempts = attempts
        self._deadline = deadline
        self._clock = clock

    async def send(self, request: InferenceRequest, decision: Decision, trail: Trail) -> Committed:
        """Return the first candidate's answer that reaches its commit point.

        Candidates are tried in order; one that fails in a way that another may not is followed by
        the next, as long as the attempt budget and the deadline last.

        Raises:
            ServiceError: The error of the only attempt, or of one that no other can mend.
            AllCandidatesFailed: Several attempts failed.
        """
        wish = request.wishes.deadline_ms
        ends = trail.started + (self._deadline if wish is None else wish / 1000)
        budget = self._attempts if request.wishes.fallback else 1
        failures: list[ServiceError] = []
        too_small = 0
        for candidate in decision.ranking:
            if len(failures) >= budget or (failures and self._clock() >= ends):
                break
            if too_small and (candidate.model.context_length or too_small + 1) <= too_small:
                continue
            try:
                return await self._attempt(request, decision, candidate, trail, ends)
            except ContextLengthExceeded as error:
                too_small = max(too_small, candidate.model.context_length or 0)
                failures.append(error)
            except ServiceError as error:
                failures.append(error)
                if not error.retryable:
                    raise
        raise _verdict(failures)

    async def _attempt(
        self, request: InferenceRequest, decision: Decision, candidate: Candidate, trail: Trail, ends: float
    ) -> Committed:
        deployment = candidate.deployment
        adapter = self._adapters.get(deployment.backend.dialect)
        if adapter is None:
            raise UpstreamUnavailable(f"No adapter speaks the dialect {deployment.backend.dialect!r}.")
        begun = self._clock()
        trail.deployment = deployment
        if trail.first_sent is None:
            trail.first_sent = begun
        reply_model = candidate.model.id if decision.policy == decision.asked else None
        total = begun + deployment.backend.timeouts.total
        exchange = _Exchange(adapter.send(request, deployment, reply_model), total, ends)
        committed = Committed(candidate, exchange, [], self._health, self._health.begin(deployment))
        try:
            await self._commit(exchange, deployment, committed.head, request.stream)
        except BaseException as error:
            code = error.code if isinstance(error, ServiceError) else "cancelled"
            trail.note(deployment, begun, self._clock(), code)
            if isinstance(error, ServiceError) and not isinstance(error, _DeadlinePassed):
                self._health.fail(deployment, error)
            await committed.close()
            raise
        now = self._clock()
        trail.note(deployment, begun, now, None)
        trail.first_token = now
        self._health.succeed(deployment, (now - begun) * 1000 if request.stream else None)
        return committed

    async def _commit(self, exchange: _Exchange, deployment: Deployment, head: list[Event], stream: bool) -> None:
        """Read up to the first event with output; what precedes it is held back, so it can be dropped.

        Raises:
            UpstreamUnavailable: The backend ended its answer before it began.
            UpstreamTimeout: The first token did not come in time.
        """
        timeouts = deployment.backend.timeouts
        # A whole answer arrives with its last token, so only the total limit can judge it.
        limit, phase = (timeouts.first_token, "first-token") if stream else (timeouts.total, "total")
        until = self._clock() + limit
        while (event := await exchange.next(until - self._clock(), phase)) is not None:
            head.append(event)
            if isinstance(event, Completion) or _commits(event):
                return
        raise UpstreamUnavailable("The backend ended its answer before it began.")


def _commits(chunk: Chunk) -> bool:
    """Return whether a chunk carries output or properly ends an answer without any."""
    return chunk.output or chunk.finish_reason is not None or chunk.raw == DONE


def _verdict(failures: list[ServiceError]) -> ServiceError:
    if all(isinstance(failure, ContextLengthExceeded) for failure in failures) or len(failures) == 1:
        return failures[-1]
    return AllCandidatesFailed(failures)
