"""send(): the only loop over candidates, with one attempt budget, one deadline, one commit point."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from router.health import HealthBoard
from router.interfaces import BackendAdapter, Reply
from router.limits.limiter import Limiter, Refusal, Reservation
from router.routing.estimates import EXPECTED_COMPLETION_TOKENS
from router.trail import Trail
from router.types import Candidate, Chunk, Completion, Decision, Deployment, Event, InferenceRequest
from shared.errors import (
    AllCandidatesFailed,
    ContextLengthExceeded,
    Overloaded,
    ServiceError,
    StreamInterrupted,
    UpstreamTimeout,
    UpstreamUnavailable,
)

__all__ = ["Committed", "Dispatcher"]


_SLACK = 0.003


class _DeadlinePassed(UpstreamTimeout):
    """The request's own deadline passed: no fault of the backend's, and no time for another."""

    retryable = False


class _Limits:
    """When to stop waiting in one attempt; each limit fires alone.

    All times are `time.perf_counter` seconds.

    Args:
        ends: When the attempt's total limit passes.
        deadline: When the request's own passes.
        first: When the first output must have come; a whole answer arrives with its last token, so
            only the total limit can judge it.
    """

    __slots__ = ("_deadline", "_ends", "_idle", "_phase", "until")

    def __init__(self, ends: float, deadline: float, first: float | None, idle: float) -> None:
        self._ends = min(deadline, ends)
        self._deadline = deadline
        self._idle = idle
        self._phase = "first-token"
        self.until = self._ends
        if first is not None and first < self._ends:
            self.until = first

    def move_on(self, now: float) -> None:
        """Output has come: from now on only the silence between two pieces counts."""
        self._phase = "idle"
        until = now + self._idle
        self.until = min(self._ends, until)

    @property
    def idle(self) -> float:
        """Seconds of silence between two pieces."""
        return self._idle

    @property
    def ends(self) -> float:
        """When the attempt ends in any case."""
        return self._ends

    def passed(self) -> UpstreamTimeout:
        """Return the error of the limit that has passed."""
        phase = self._phase if self.until < self._ends else "total"
        kind = _DeadlinePassed if self.until >= self._deadline else UpstreamTimeout
        return kind(f"The backend exceeded its {phase} limit.")


class Committed:
    """An attempt past its commit point: the first events, and the rest as it comes.

    `close()` must be called whatever happens.
    """

    __slots__ = ("_clock", "_health", "_limits", "_open", "_reply", "_ticket", "candidate", "head", "reservation")

    def __init__(
        self,
        candidate: Candidate,
        limits: _Limits,
        health: HealthBoard,
        ticket: int,
        clock: Callable[[], float],
        reservation: Reservation,
    ) -> None:
        self.candidate = candidate
        self.reservation = reservation
        self.head: Sequence[Event] = ()
        self._limits = limits
        self._health = health
        self._ticket = ticket
        self._clock = clock
        self._reply: Reply | None = None
        self._open = True

    async def begin(self, adapter: BackendAdapter, request: InferenceRequest, reply_model: str | None) -> None:
        """Send, and read up to the first event with output; what precedes it is held back, so it can be dropped.

        Raises:
            ServiceError: The backend failed before it committed to an answer.
        """
        limits = self._limits
        try:
            reply = self._reply = await adapter.send(request, self.candidate.deployment, reply_model, limits.until)
            head: Sequence[Event] = ()
            while events := await reply.more(limits.until):
                head = (*head, *events) if head else events
                if any(map(_commits, events)):
                    self.head = head
                    return
        except TimeoutError as error:
            raise limits.passed() from error
        raise UpstreamUnavailable("The backend ended its answer before it began.")

    async def more(self) -> Sequence[Event]:
        """Return the answer's next events; none mean that it is complete.

        Raises:
            StreamInterrupted: The backend failed in the middle.
        """
        if self.head:
            head, self.head = self.head, ()
            return head
        limits = self._limits
        limits.move_on(self._clock())
        assert self._reply is not None
        try:
            return await self._reply.more(limits.until)
        except TimeoutError as error:
            raise self._interrupted(limits.passed()) from error
        except ServiceError as error:
            raise self._interrupted(error) from error

    async def pump(self, take: Callable[[Sequence[Event]], bool]) -> None:
        """Hand on the answer's events as they come, until `take` says False or the answer is complete.

        Raises:
            StreamInterrupted: The backend failed in the middle.
        """
        if self.head:
            head, self.head = self.head, ()
            if not take(head):
                return
        limits = self._limits
        assert self._reply is not None
        try:
            await self._reply.pump(take, limits.idle, limits.ends)
        except TimeoutError as error:
            # A timer may fire a little early; the end that it was set for has come all the same.
            limits.move_on(self._clock() - limits.idle + _SLACK)
            raise self._interrupted(limits.passed()) from error
        except ServiceError as error:
            raise self._interrupted(error) from error

    def _interrupted(self, error: ServiceError) -> StreamInterrupted:
        if not isinstance(error, _DeadlinePassed):
            self._health.fail(self.candidate.deployment, error)
        return StreamInterrupted(f"The answer was cut off. {error.message}")

    async def close(self) -> None:
        """End the exchange; calling it again does nothing."""
        if self._open:
            self._open = False
            self._health.end(self.candidate.deployment, self._ticket)
            self.reservation.release()
            if self._reply is not None:
                await self._reply.close()


class Dispatcher:
    """Sends a request along a decision's ranking until one candidate commits to an answer.

    Args:
        adapters: Dialect to adapter.
        health: Learns from every attempt.
        attempts: The attempt budget of one request.
        deadline: Seconds that one request may take, where it wishes no other limit.
        limiter: Keeps deployments within their limits; None: each process for itself.
    """

    def __init__(
        self,
        adapters: Mapping[str, BackendAdapter],
        health: HealthBoard,
        attempts: int = 3,
        deadline: float = 600.0,
        clock: Callable[[], float] = time.perf_counter,
        limiter: Limiter | None = None,
    ) -> None:
        self._adapters = adapters
        self._health = health
        self._attempts = attempts
        self._deadline = deadline
        self._clock = clock
        self._limiter = limiter or Limiter()

    async def send(self, request: InferenceRequest, decision: Decision, trail: Trail) -> Committed:
        """Return the first candidate's answer that reaches its commit point.

        Candidates are tried in order; one that fails in a way that another may not is followed by
        the next, as long as the attempt budget and the deadline last. One that is at a limit of its
        own is passed over: that is no attempt.

        Raises:
            Overloaded: Every candidate is at a limit.
            ServiceError: The error of the only attempt, or of one that no other can mend.
            AllCandidatesFailed: Several attempts failed.
        """
        wish = request.wishes.deadline_ms
        ends = trail.started + (self._deadline if wish is None else wish / 1000)
        budget = self._attempts if request.wishes.fallback else 1
        failures: list[ServiceError] = []
        refusals: list[Refusal] = []
        too_small = 0
        for candidate in decision.ranking:
            if len(failures) >= budget or (failures and self._clock() >= ends):
                break
            if too_small and (candidate.model.context_length or too_small + 1) <= too_small:
                continue
            deployment = candidate.deployment
            tokens = 0 if deployment.limits.tpm is None else _expected_tokens(decision)
            reservation = self._limiter.reserve(deployment, tokens)
            if reservation is None:
                refusals.append(self._limiter.refusal(deployment, tokens))
                continue
            try:
                return await self._attempt(request, decision, candidate, trail, ends, reservation)
            except ContextLengthExceeded as error:
                too_small = max(too_small, candidate.model.context_length or 0)
                failures.append(error)
            except ServiceError as error:
                failures.append(error)
                if not error.retryable:
                    raise
        raise _verdict(failures) if failures else _full(refusals)

    async def _attempt(
        self,
        request: InferenceRequest,
        decision: Decision,
        candidate: Candidate,
        trail: Trail,
        ends: float,
        reservation: Reservation,
    ) -> Committed:
        deployment = candidate.deployment
        adapter = self._adapters.get(deployment.backend.dialect)
        if adapter is None:
            reservation.release()
            reservation.settle(0)
            raise UpstreamUnavailable(f"No adapter speaks the dialect {deployment.backend.dialect!r}.")
        begun = self._clock()
        trail.deployment = deployment
        if trail.first_sent is None:
            trail.first_sent = begun
        reply_model = candidate.model.id if decision.policy == decision.asked else None
        timeouts = deployment.backend.timeouts
        first = begun + timeouts.first_token if request.stream else None
        limits = _Limits(begun + timeouts.total, ends, first, timeouts.idle)
        ticket = self._health.begin(deployment)
        committed = Committed(candidate, limits, self._health, ticket, self._clock, reservation)
        try:
            await committed.begin(adapter, request, reply_model)
        except BaseException as error:
            await self._gave_up(committed, trail, begun, error)
            raise
        now = self._clock()
        trail.note(deployment, begun, now, None)
        trail.first_token = now
        self._health.succeed(deployment, (now - begun) * 1000 if request.stream else None)
        return committed

    async def _gave_up(self, committed: Committed, trail: Trail, begun: float, error: BaseException) -> None:
        deployment: Deployment = committed.candidate.deployment
        code = error.code if isinstance(error, ServiceError) else "cancelled"
        trail.note(deployment, begun, self._clock(), code)
        if isinstance(error, ServiceError) and not isinstance(error, UpstreamTimeout):
            committed.reservation.settle(0)  # a backend that says no charges nothing; one that says nothing might
        if isinstance(error, ServiceError) and not isinstance(error, _DeadlinePassed):
            self._health.fail(deployment, error)
        await committed.close()


def _commits(event: Event) -> bool:
    """Return whether an event carries output or properly ends an answer without any."""
    if isinstance(event, Chunk):
        return event.output or event.finish_reason is not None or event.done
    return isinstance(event, Completion)


def _expected_tokens(decision: Decision) -> int:
    features = decision.features
    return features.prompt_tokens + (features.max_tokens or EXPECTED_COMPLETION_TOKENS) * features.choices


def _full(refusals: list[Refusal]) -> Overloaded:
    soonest = min(refusal.retry_after for refusal in refusals)
    reasons = "; ".join(dict.fromkeys(refusal.reason for refusal in refusals))
    return Overloaded(f"Every deployment that could answer is at its limit: {reasons}.", retry_after=soonest)


def _verdict(failures: list[ServiceError]) -> ServiceError:
    if all(isinstance(failure, ContextLengthExceeded) for failure in failures) or len(failures) == 1:
        return failures[-1]
    return AllCandidatesFailed(failures)
