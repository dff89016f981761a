"""One attempt at one deployment: its limits, its commit point, its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.health import HealthBoard
from router.interfaces import BackendAdapter, Headers, Reply
from router.limits.limiter import Reservation
from router.types import Candidate, Chunk, Completion, Event, InferenceRequest
from shared.errors import ServiceError, UpstreamTimeout, UpstreamUnavailable

__all__ = ["AttemptLimits", "DeadlinePassed", "LiveAttempt"]

_SLACK = 0.003


class DeadlinePassed(UpstreamTimeout):
    """The request's own deadline passed: no fault of the backend's, and no time for another."""

    retryable = False


class AttemptLimits:
    """When to stop waiting in one attempt; each limit fires alone.

    All times are `time.perf_counter` seconds.

    Args:
        ends: When the attempt's total limit passes.
        deadline: When the request's own passes.
        first: When the first output must have come; a whole answer arrives with its last token, so
            only the total limit can judge it.
        idle: Seconds of silence between two pieces.
    """

    __slots__ = ("_deadline", "_phase", "ends", "idle", "until")

    def __init__(self, ends: float, deadline: float, first: float | None, idle: float) -> None:
        self.ends = min(deadline, ends)
        self.idle = idle
        self._deadline = deadline
        self._phase = "first-token"
        self.until = self.ends
        if first is not None and first < self.ends:
            self.until = first

    def move_on(self, now: float) -> None:
        """Output has come: from now on only the silence between two pieces counts."""
        self._phase = "idle"
        self.until = min(self.ends, now + self.idle)

    def passed(self) -> UpstreamTimeout:
        """Return the error of the limit that has passed."""
        phase = self._phase if self.until < self.ends else "total"
        kind = DeadlinePassed if self.until >= self._deadline else UpstreamTimeout
        return kind(f"The backend exceeded its {phase} limit.")


class LiveAttempt:
    """A request at one deployment, and its answer as it comes. `close()` must be called whatever happens."""

    __slots__ = ("_clock", "_health", "_limits", "_open", "_reply", "_ticket", "candidate", "head", "reservation")

    def __init__(
        self,
        candidate: Candidate,
        limits: AttemptLimits,
        health: HealthBoard,
        ticket: int,
        clock: Callable[[], float],
        reservation: Reservation,
    ) -> None:
        self.candidate = candidate
        self.reservation = reservation
        self.head: Sequence[Event] = ()
        """What has come up to the commit point; `more` and `pump` begin with it."""
        self._limits = limits
        self._health = health
        self._ticket = ticket
        self._clock = clock
        self._reply: Reply | None = None
        self._open = True

    @property
    def notes(self) -> Headers:
        """What the client gets to know besides the answer; see `Reply.notes`."""
        assert self._reply is not None
        return self._reply.notes

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
            ServiceError: The backend failed in the middle; its health knows.
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
            raise self._failed(limits.passed()) from error
        except ServiceError as error:
            raise self._failed(error) from error.__cause__

    async def pump(self, take: Callable[[Sequence[Event]], bool]) -> None:
        """Hand on the answer's events as they come, until `take` says False or the answer is complete.

        Raises:
            ServiceError: The backend failed in the middle; its health knows.
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
            raise self._failed(limits.passed()) from error
        except ServiceError as error:
            raise self._failed(error) from error.__cause__

    def _failed(self, error: ServiceError) -> ServiceError:
        if not isinstance(error, DeadlinePassed):
            self._health.fail(self.candidate.deployment, error)
        return error

    async def close(self) -> None:
        """End the exchange; calling it again does nothing."""
        if self._open:
            self._open = False
            self._health.end(self.candidate.deployment, self._ticket)
            self.reservation.release()
            if self._reply is not None:
                await self._reply.close()


def _commits(event: Event) -> bool:
    """Return whether an event carries output or properly ends an answer without any."""
    if isinstance(event, Chunk):
        return event.output or event.finish_reason is not None or event.done
    return isinstance(event, Completion)
