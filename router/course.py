"""One request's way along its ranking: who is tried next, who is tried twice, who goes on with a cut stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from msgspec import structs

from router.attempt import AttemptLimits, DeadlinePassed, LiveAttempt
from router.health import HealthBoard
from router.interfaces import BackendAdapter, Bridge, Bridges
from router.limits.limiter import FREE, Limiter, Refusal
from router.resume import Joint, Story, resumable
from router.retries import Retries, Unspoken, WaitingRoom
from router.routing.estimates import expected_completion
from router.trail import Trail
from router.types import Candidate, Decision, Endpoint, InferenceRequest
from shared.errors import (
    AllCandidatesFailed,
    ContextLengthExceeded,
    InvalidRequest,
    Overloaded,
    ServiceError,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
)

__all__ = ["Begun", "Course", "Desk", "PassedOver", "expected_tokens"]


@dataclass(frozen=True, slots=True)
class Desk:
    """What every request is sent with.

    Attributes:
        adapters: Dialect to adapter.
        bridges: How endpoints that a backend does not speak are carried over chat.
        stand_ins: Who answers an endpoint in the place of a backend that does not speak it.
        health: Learns from every attempt.
        limiter: Keeps deployments within their limits.
        attempts: The attempt budget of one request.
        deadline: Seconds that one request may take, where it wishes no other limit.
        clock: As `time.perf_counter`.
        room: Where requests wait for a cluster that is starting.
        aside: Learns from what stand-ins answer, and is asked by nobody.
    """

    adapters: Mapping[str, BackendAdapter]
    bridges: Bridges
    stand_ins: Mapping[Endpoint, BackendAdapter]
    health: HealthBoard
    limiter: Limiter
    attempts: int
    deadline: float
    clock: Callable[[], float]
    room: WaitingRoom = field(default_factory=WaitingRoom)
    aside: HealthBoard = field(default_factory=HealthBoard)


class Begun(NamedTuple):
    """An answer at its commit point.

    Attributes:
        attempt: Where it comes from.
        bridge: Tells it in the client's dialect, where that is not the backend's.
        story: Keeps what is delivered of a stream that somebody else might continue.
    """

    attempt: LiveAttempt
    bridge: Bridge | None
    story: Story | None


class Course:
    """One request's way along its ranking, under one attempt budget and one deadline."""

    __slots__ = (
        "_candidates",
        "_desk",
        "_ends",
        "_failures",
        "_left",
        "_refusals",
        "_request",
        "_retries",
        "_too_small",
        "_trail",
        "decision",
    )

    def __init__(self, desk: Desk, request: InferenceRequest, decision: Decision, trail: Trail) -> None:
        wish = request.wishes.deadline_ms
        self._desk = desk
        self._request = request
        self.decision = decision
        self._trail = trail
        self._ends = trail.started + (desk.deadline if wish is None else wish / 1000)
        self._left = desk.attempts if request.wishes.fallback else 1
        self._candidates: Iterator[Candidate] = iter(decision.ranking)
        self._failures: list[ServiceError] = []
        self._refusals: list[Refusal] = []
        self._too_small = 0
        self._retries: Retries | None = None
        """Whom to ask again; most requests need not know."""

    async def commit(self) -> Begun:
        """Return the first candidate's answer that reaches its commit point; see `Dispatcher.send`.

        Raises:
            ServiceError: There is none.
        """
        try:
            while (candidate := self._next() or await self._again()) is not None:
                try:
                    return await self._ask(candidate)
                except ServiceError as error:
                    self._learn(candidate, error)
            raise self._verdict() if self._failures else _full(self._refusals)
        finally:
            self._leave()

    def _learn(self, candidate: Candidate, error: ServiceError) -> None:
        """Note a failure; raise it where nobody else can mend it."""
        if isinstance(error, PassedOver):
            return
        self._failures.append(error)
        if isinstance(error, ContextLengthExceeded):
            self._too_small = max(self._too_small, candidate.model.context_length or 0)
            if self._retries is not None:
                self._retries.forget(self._too_small)
        elif not error.retryable:
            raise self._verdict() if self._waiting else error
        else:
            self._asking_again.note(candidate, error)

    def _verdict(self) -> ServiceError:
        """Return what the failures come to."""
        failures = self._failures
        if self._waiting:
            return self._asking_again.verdict(failures[-1])
        one = len({attempt.deployment for attempt in self._trail.attempts}) <= 1
        if one or all(isinstance(failure, ContextLengthExceeded) for failure in failures):
            return failures[-1]
        return AllCandidatesFailed(failures)

    @property
    def _asking_again(self) -> Retries:
        if self._retries is None:
            desk = self._desk
            self._retries = Retries(desk.health, desk.room, desk.clock, self._ends, waits=self._request.wishes.fallback)
        return self._retries

    @property
    def _waiting(self) -> bool:
        """Whether the request waits for a cluster to start."""
        return self._retries is not None and self._retries.until > 0

    def _leave(self) -> None:
        if self._retries is not None:
            self._retries.leave()

    async def _again(self) -> Candidate | None:
        """Return who is to be asked again, once the time for that has come; None where nobody is."""
        return None if self._retries is None else await self._retries.next(self._left)

    def _next(self) -> Candidate | None:
        """Return who is to be tried next, or None where there is nobody, no attempt or no time left."""
        if self._failures and (self._left <= 0 or self._desk.clock() >= self._ends):
            return None
        too_small, starting = self._too_small, self._desk.health.starting
        for candidate in self._candidates:
            if too_small and (candidate.model.context_length or too_small + 1) <= too_small:
                continue
            if starting and candidate.deployment.id in starting:
                self._asking_again.defer(candidate)
                continue
            if self._retries is not None and (cold := self._retries.due()) is not None:
                self._candidates = chain((candidate,), self._candidates)
                return cold
            return candidate
        return None

    async def _ask(self, candidate: Candidate) -> Begun:
        """Try one candidate with the client's request, in a form that its backend speaks.

        Raises:
            PassedOver: It is at a limit; that is no attempt.
            ServiceError: It failed.
        """
        request, bridge = self._request, None
        adapter = self._adapter(candidate)
        if not adapter.speaks(request.endpoint, candidate):
            make = self._desk.bridges.get(request.endpoint)
            stand_in = self._desk.stand_ins.get(request.endpoint)
            if stand_in is not None:
                return Begun(await self._begin(stand_in, candidate, request, aside=True), None, None)
            if make is not None:
                bridge = make(request)
                request = structs.replace(bridge.request, carried=True)
            else:
                self._left -= 1
                raise Unspoken(f"The backend does not speak the endpoint {request.endpoint!r}.")
        attempt = await self._begin(adapter, candidate, request)
        story = Story(request) if request.stream and self._resumable(request, candidate) else None
        return Begun(attempt, bridge, story)

    def _resumable(self, request: InferenceRequest, candidate: Candidate) -> bool:
        model = candidate.model
        others = len(model.deployments) > 1 or bool(model.fallbacks) or self.decision.policy is not None
        return resumable(request, candidate, others=others)

    def _adapter(self, candidate: Candidate) -> BackendAdapter:
        dialect = candidate.deployment.backend.dialect
        adapter = self._desk.adapters.get(dialect)
        if adapter is None:
            self._left -= 1
            raise Unspoken(f"No adapter speaks the dialect {dialect!r}.")
        return adapter

    async def _begin(
        self, adapter: BackendAdapter, candidate: Candidate, request: InferenceRequest, *, aside: bool = False
    ) -> LiveAttempt:
        """Send a request to one candidate and return the attempt at its commit point.

        Args:
            adapter: Sends it.
            candidate: Whom to.
            request: In a form that the adapter speaks.
            aside: Whether somebody answers in the candidate's place, of which its limits and health know nothing.
        """
        desk, trail, decision, deployment = self._desk, self._trail, self.decision, candidate.deployment
        health = desk.aside if aside else desk.health
        tokens = 0 if deployment.limits.tpm is None else expected_tokens(decision)
        reservation = FREE if aside else desk.limiter.reserve(deployment, tokens)
        if reservation is None:
            self._refusals.append(desk.limiter.refusal(deployment, tokens))
            full = PassedOver("The deployment is at its limit.")
            self._asking_again.note(candidate, full)
            raise full
        if self._retries is None or not self._waiting:
            self._left -= 1
        begun = desk.clock()
        trail.deployment = deployment
        if trail.first_sent is None:
            trail.first_sent = begun
        reply_model = candidate.model.id if decision.policy == decision.asked else None
        timeouts = deployment.backend.timeouts
        first = begun + timeouts.first_token if request.stream else None
        if first is not None and self._retries is not None:
            first = max(first, self._retries.until)
        limits = AttemptLimits(begun + timeouts.total, self._ends, first, timeouts.idle)
        ticket = health.begin(deployment)
        attempt = LiveAttempt(candidate, limits, health, ticket, desk.clock, reservation)
        try:
            await attempt.begin(adapter, request, reply_model)
        except BaseException as error:
            await self._gave_up(attempt, begun, error)
            raise
        now = desk.clock()
        trail.note(deployment, begun, now, None)
        if trail.first_token is None:
            trail.first_token = now
        health.succeed(deployment, (now - begun) * 1000 if request.stream else None)
        return attempt

    async def _gave_up(self, attempt: LiveAttempt, begun: float, error: BaseException) -> None:
        deployment = attempt.candidate.deployment
        now = self._desk.clock()
        code = error.code if isinstance(error, ServiceError) else self._cancelled(attempt, now - begun)
        self._trail.note(deployment, begun, now, code)
        silent = isinstance(error, UpstreamTimeout)
        worked = isinstance(error, UpstreamOverloaded) and error.spent
        if isinstance(error, ServiceError) and not (silent or worked):
            attempt.reservation.settle(0)  # a backend that says no charges nothing; one that says nothing might
        # A cluster that starts says all kinds of things, for which nobody else is to leave it alone.
        blameless = isinstance(error, DeadlinePassed) or (self._waiting and not isinstance(error, UpstreamUnauthorized))
        if isinstance(error, ServiceError) and not blameless:
            self._desk.health.fail(deployment, error)
        await attempt.close()

    def _cancelled(self, _attempt: LiveAttempt, _waited: float) -> str:
        """Return what to call the end of an attempt that was cancelled after so many seconds."""
        return "cancelled"

    async def resume(self, story: Story, broken: Candidate, error: ServiceError) -> tuple[LiveAttempt, Joint]:
        """Return an attempt that goes on where a story breaks off, and what joins the two.

        A candidate that can is asked to continue the text; one that cannot, or refuses, to answer anew, and
        is believed only if it says the same again, character for character. Where there is nobody else, the one
        that broke off is asked itself.

        Raises:
            ServiceError: Nobody could go on.
        """
        try:
            return await self._resume(story, broken, error)
        finally:
            self._leave()

    async def _resume(self, story: Story, broken: Candidate, error: ServiceError) -> tuple[LiveAttempt, Joint]:
        self._failures.append(error)
        if isinstance(error, DeadlinePassed) or not story.open:
            raise error
        self._asking_again.note(broken, error)
        candidate, prefill = self._next() or await self._again(), True
        while candidate is not None:
            joint, attempt = story.joint(candidate, prefill=prefill), None
            try:
                attempt = await self._begin(self._adapter(candidate), candidate, joint.request)
                if await joint.meets(attempt):
                    return attempt, joint
            except (UpstreamRejected, InvalidRequest) as refusal:
                self._failures.append(refusal)
                if joint.continues and self._left > 0:
                    prefill = False
                    continue
            except ServiceError as failure:
                self._failures.append(failure)
                self._asking_again.note(candidate, failure)
            except BaseException:
                if attempt is not None:
                    await attempt.close()
                raise
            if attempt is not None:
                await attempt.close()
            candidate, prefill = self._next() or await self._again(), True
        raise self._failures[-1]


class PassedOver(ServiceError):
    """A candidate of which all is noted already, as that it is at its limit; never shown."""


def expected_tokens(decision: Decision) -> int:
    """Return how many tokens a request will use, as far as one can tell before."""
    return decision.features.prompt_tokens + expected_completion(decision.features)


def _full(refusals: list[Refusal]) -> Overloaded:
    soonest = min(refusal.retry_after for refusal in refusals)
    reasons = "; ".join(dict.fromkeys(refusal.reason for refusal in refusals))
    return Overloaded(f"Every deployment that could answer is at its limit: {reasons}.", retry_after=soonest)
