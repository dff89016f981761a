"""Gateway.handle(): one request, one line: admit, cache, decide, dispatch, observe, settle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, cast

from msgspec import structs

from router.accounting import Ledger, Meter
from router.admission import permit
from router.cache.exact import CachedAnswer, ExactCache
from router.discretion import Discretion
from router.dispatch import Committed, Dispatcher
from router.health import HealthBoard
from router.registry.snapshot import Catalog
from router.routing.decide import DEFAULT_WEIGHTS, decide, no_candidate
from router.routing.features import extract_features, strictest
from router.routing.plan import Planner, lineup
from router.tracing import Tracer
from router.types import Chunk, Completion, Constraints, Decision, Event, InferenceRequest, Model, Outcome, Policy
from shared.errors import InvalidRequest, ModelNotFound, ServiceError

__all__ = ["PATIENCE", "Answer", "CatalogReader", "Gateway"]

PATIENCE = 2.0
"""Seconds that a request with a key or a model that is not in the snapshot waits for the registry."""
_UNCONSTRAINED = Constraints()


class CatalogReader(Protocol):
    """Where the current snapshot of the registry is read."""

    @property
    def current(self) -> Catalog:
        """The snapshot in force."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the snapshot may be out of date; None while all is well."""
        ...

    async def refresh(self, patience: float | None = None) -> bool:
        """Read the registry again now, if it has changed; return whether that worked, within `patience` seconds."""
        ...


class Answer:
    """An answer past its commit point.

    `close()` must be called whatever happens; it ends the exchange and settles the account.
    """

    __slots__ = ("_gateway", "_kept", "_room", "_source", "closed", "last", "meter")

    def __init__(self, gateway: Gateway, meter: Meter, source: Committed | CachedAnswer, keep: int) -> None:
        self.meter = meter
        self.closed = False
        self.last = b""
        self._gateway = gateway
        self._source: Committed | CachedAnswer | None = source
        self._room = keep
        self._kept: list[Event] = []

    async def more(self) -> Sequence[Event]:
        """Return the answer's next events; none mean that it is complete.

        Raises:
            StreamInterrupted: The backend failed in the middle.
        """
        source, meter = self._source, self.meter
        events: Sequence[Event] = ()
        if isinstance(source, Committed):
            try:
                events = await source.more()
            except ServiceError as error:
                self._gateway.failed(meter, error)
                raise
        elif source is not None:
            events, self._source = source.events, None
        for event in events:
            meter.observe(event)
            if self._room > 0:
                self._keep(event)
        return events

    async def pump(self, deliver: Callable[[bytes], bool]) -> None:
        """Hand on a stream's bytes as they come, until `deliver` says False or the stream is complete.

        The last piece, which ends the stream, is left in `last`: it is told once the account is settled.

        Raises:
            StreamInterrupted: The backend failed in the middle.
        """
        meter = self.meter

        def take(events: Sequence[Event]) -> bool:
            chunks = cast("Sequence[Chunk]", events)
            for chunk in chunks:
                meter.observe(chunk)
                if self._room > 0:
                    self._keep(chunk)
            data = chunks[0].raw if len(chunks) == 1 else b"".join([chunk.raw for chunk in chunks])
            if meter.complete:
                self.last = data
                return False
            return not data or deliver(data)

        source = self._source
        if isinstance(source, CachedAnswer):
            take(source.events)
            return
        assert source is not None
        try:
            await source.pump(take)
        except ServiceError as error:
            self._gateway.failed(meter, error)
            raise

    def _keep(self, event: Event) -> None:
        """Collect what the cache may keep, within its bound, and hand it over once it is whole."""
        self._room -= len(event.body if isinstance(event, Completion) else event.raw)
        self._kept.append(event)
        if self._room <= 0:
            self._kept = []
        elif self.meter.complete:
            self._room = 0
            self._gateway.remember(self.meter, self._kept)

    async def close(self) -> Outcome | None:
        """End the exchange and settle; the first call returns the outcome, a later one None."""
        meter = self.meter
        self.closed = True
        if not meter.complete and meter.error is None:
            meter.error, meter.status = "client_disconnected", 499
        try:
            if isinstance(self._source, Committed):
                await self._source.close()
        finally:
            outcome = self._gateway.settle(meter)
            usage = None if outcome is None else outcome.usage
            if usage is not None and isinstance(self._source, Committed):
                self._source.reservation.settle(usage.prompt_tokens + usage.completion_tokens)
        return outcome


class Gateway:
    """The request path; every room behind it is given.

    Args:
        catalog: Where the registry's snapshot is read.
        health: What is known of the deployments.
        dispatcher: Sends a request along a decision.
        ledger: Settles outcomes.
        cache: Answers identical requests.
        discretion: Takes out of errors what no caller may see.
        tracer: Traces requests; None: no tracing.
    """

    def __init__(
        self,
        catalog: CatalogReader,
        health: HealthBoard,
        dispatcher: Dispatcher,
        ledger: Ledger,
        cache: ExactCache,
        discretion: Discretion,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._catalog = catalog
        self._health = health
        self._planner = Planner(health)
        self._chance = random.Random()  # noqa: S311 - lots, not secrets; `secrets` asks the system each time
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._cache = cache
        self._discretion = discretion

    def open(self, request: InferenceRequest, started: float) -> Meter:
        """Return the account of a request, which `handle` must follow.

        Args:
            request: The request.
            started: When it came in (`time.perf_counter` seconds).
        """
        span = None if self._tracer is None else self._tracer.begin(request.headers.get("traceparent"))
        if span is not None:
            request = structs.replace(request, headers={**request.headers, "traceparent": span.traceparent})
        meter = self._ledger.open(request, started)
        meter.span = span
        return meter

    async def handle(self, meter: Meter) -> Answer:
        """Return the answer to an opened request once it is committed to.

        Raises:
            ServiceError: Nobody could or may answer; the account is settled.
        """
        try:
            return await self._answer(meter.request, meter)
        except BaseException as error:
            if isinstance(error, ServiceError):
                meter.status, meter.error = error.status, error.code
            elif isinstance(error, Exception):
                meter.status, meter.error = 500, "internal_error"
            else:
                meter.status, meter.error = 499, "client_disconnected"
            self._ledger.settle(meter)
            if isinstance(error, ServiceError):
                self._discretion.hush(error)
                error.extra_headers |= {k.decode(): v.decode() for k, v in meter.head(time.perf_counter())}
            raise

    async def _answer(self, request: InferenceRequest, meter: Meter) -> Answer:
        catalog = self._catalog.current
        found = catalog.resolve(request.model)
        if found is None:
            # A name that the snapshot does not know may be news: the registry is asked once.
            await self._catalog.refresh(PATIENCE)
            catalog = self._catalog.current
            found = catalog.resolve(request.model)
        target, policy = self._target(request, catalog, found)
        meter.known, meter.policy = True, policy.name if policy else None
        meter.privacy = privacy = strictest(request.wishes.privacy, policy.constraints.privacy if policy else "any")
        cacheable = self._cache.eligible(request, privacy)
        if cacheable:
            meter.cache = "miss"
            kept = await self._cache.get(request, meter.policy or "")
            if kept is not None:
                meter.cache, meter.model, meter.backend = "hit", kept.model, kept.backend
                meter.trail.first_sent = time.perf_counter()
                return Answer(self, meter, kept, 0)
        decision = self._decide(request, meter, catalog, target, policy)
        due = decision.features.first_token_ms
        if due != request.wishes.first_token_ms:  # the policy's, which who schedules the request should know too
            request = structs.replace(request, wishes=replace(request.wishes, first_token_ms=due))
        hedge = None if policy is None else policy.hedge
        committed = await self._dispatcher.send(request, decision, meter.trail, hedge)
        deployment = committed.candidate.deployment
        meter.model, meter.backend, meter.notes = deployment.model, deployment.backend.name, committed.notes
        return Answer(self, meter, committed, self._cache.max_bytes if cacheable else 0)

    def _target(
        self, request: InferenceRequest, catalog: Catalog, found: Model | Policy | None
    ) -> tuple[Model | Policy, Policy | None]:
        """Return what to choose for, and the policy in force.

        Raises:
            ModelNotFound: Nothing has the name that was asked for.
            Forbidden: The caller may not use it.
            InvalidRequest: The policy that was wished for does not exist.
        """
        permit(request.caller, request.model)
        if found is None:
            raise ModelNotFound(f"The model {request.model!r} does not exist.", param="model")
        policy = found if isinstance(found, Policy) else None
        wished = request.wishes.policy
        if wished is None:
            return found, policy
        policy = catalog.policies.get(wished)
        if policy is None:
            raise InvalidRequest(f"The policy {wished!r} does not exist.", param="x-router-policy")
        permit(request.caller, wished)
        return (found if isinstance(found, Model) else policy), policy

    def _decide(
        self,
        request: InferenceRequest,
        meter: Meter,
        catalog: Catalog,
        target: Model | Policy,
        policy: Policy | None,
    ) -> Decision:
        """Return who may answer, in order.

        Raises:
            ServiceError: Nobody may; it lists the reasons.
        """
        if policy is None:
            name, weights, constraints = None, DEFAULT_WEIGHTS, _UNCONSTRAINED
        else:
            name, weights, constraints = policy.name, policy.weights or DEFAULT_WEIGHTS, policy.constraints
        features = extract_features(request, constraints)
        seed = self._chance.getrandbits(32)
        fallback = request.wishes.fallback
        if features.pin is None:
            ranking = self._planner.rank(catalog, target, weights, features, seed, fallback)
            if ranking:
                return Decision(meter.decision_id, request.model, name, ranking, (), features, seed, catalog.version)
        models, fallbacks = lineup(catalog, target, fallback)
        decision = decide(
            id=meter.decision_id,
            asked=request.model,
            policy=name,
            models=models,
            fallbacks=fallbacks,
            features=features,
            health=self._health.snapshot(),
            weights=weights,
            seed=seed,
            catalog_version=catalog.version,
        )
        if decision.ranking:
            return decision
        error = no_candidate(decision)
        if error.retry_after is None:
            resting = [refused.deployment for refused in decision.rejections if refused.filter == "health"]
            error.retry_after = self._health.back_in(resting)
        raise error

    def failed(self, meter: Meter, error: ServiceError) -> None:
        """Note an error that cuts an answer off, and clean it for the client."""
        self._discretion.hush(error)
        meter.error = error.code

    def remember(self, meter: Meter, events: list[Event]) -> None:
        """Keep a finished answer for later requests."""
        answer = CachedAnswer(events, meter.model or "", meter.backend or "")
        self._cache.put(meter.request, meter.policy or "", answer)

    def settle(self, meter: Meter) -> Outcome | None:
        """Account for a request; only the first call does anything."""
        return self._ledger.settle(meter)
