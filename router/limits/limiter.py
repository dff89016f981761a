"""Limiter: may a request go to a deployment now? Answered from memory, in a microsecond or two."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from router.limits.leases import Ask, Grant
from router.limits.spending import Rate, Slots, Tick
from router.types import Deployment, Limits

__all__ = ["FREE", "Limiter", "Quota", "Refusal", "Reservation"]

_RENEWAL = 1.0
"""Seconds between two sweeps of what is in use."""
_ROUND = 20.0
"""Seconds after which what is at rest is renewed."""


class Refusal(NamedTuple):
    """Why a deployment takes no request now, for people, and in how many seconds it may."""

    reason: str
    retry_after: float


class Reservation:
    """One request's part of a deployment's limits, from just before it is sent. Its calls may be repeated."""

    __slots__ = ("_rate", "_slots", "_tick", "_tokens")

    def __init__(self, slots: Slots | None, rate: Rate | None, tick: Tick | None, tokens: int) -> None:
        self._slots = slots
        self._rate = rate
        self._tick = tick
        self._tokens = tokens

    def release(self) -> None:
        """The attempt has ended: its slot is free."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.balance += 1
            slots.in_use -= 1

    def settle(self, tokens: int) -> None:
        """Correct the tokens that were reserved to those that were used (0: none were charged)."""
        rate, self._rate = self._rate, None
        if rate is None or self._tick is None:
            return
        if tokens < self._tokens:
            rate.refund(self._tokens - tokens, self._tick)
        elif tokens > self._tokens:
            rate.spend(tokens - self._tokens)


FREE = Reservation(None, None, None, 0)
"""Of a deployment without limits."""


class Quota:
    """The limits of one deployment, as far as this process may use them."""

    __slots__ = ("limits", "requests", "slots", "tokens", "touched", "until")

    def __init__(self) -> None:
        self.limits = Limits()
        self.slots: Slots | None = None
        self.requests: Rate | None = None
        self.tokens: Rate | None = None
        self.until = math.inf
        """When the leases end, or one's own part is to be looked at again."""
        self.touched = False
        """Whether a request has asked for it since the last sweep."""

    def parts(self) -> list[Rate | Slots]:
        """Return the limits that there are."""
        return [part for part in (self.slots, self.requests, self.tokens) if part is not None]

    def lacking(self, tokens: int) -> list[tuple[Rate | Slots, int]]:
        """Return the limits that have no room for a request, and how much room it needs there."""
        found: list[tuple[Rate | Slots, int]] = []
        if self.slots is not None and self.slots.balance < 1:
            found.append((self.slots, 1))
        if self.requests is not None and self.requests.balance < 1:
            found.append((self.requests, 1))
        if self.tokens is not None and self.tokens.balance < (wanted := max(1, min(tokens, self.tokens.cap))):
            found.append((self.tokens, wanted))
        return found

    def fit(self, name: str, limits: Limits, share: Callable[[int], int]) -> None:
        """Take on limits; what is known of those that stay is kept."""
        self.limits = limits
        slots, rpm, tpm = limits.max_concurrency, limits.rpm, limits.tpm
        if slots is None:
            self.slots = None
        else:
            self.slots = self.slots or Slots(f"slots:{name}", slots, share(slots))
            self.slots.limit, self.slots.share = slots, share(slots)
        if rpm is None:
            self.requests = None
        else:
            self.requests = self.requests or Rate(f"rpm:{name}", rpm, share(rpm))
            self.requests.limit, self.requests.share = rpm, share(rpm)
        if tpm is None:
            self.tokens = None
        else:
            self.tokens = self.tokens or Rate(f"tpm:{name}", tpm, share(tpm), None)
            self.tokens.limit, self.tokens.share = tpm, share(tpm)
            self.tokens.spare = tpm


class Limiter:
    """Keeps requests within the limits of their deployments, without waiting for anything.

    Where a store leases budgets (see `LeaseKeeper`), requests spend the lease, and a deployment whose
    lease is spent takes none until it is renewed. Without a store each process has its share.

    Args:
        share: This process's part of a limit while there is no store.
        shared: Whether a keeper renews leases; without one the share is all there is.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        share: Callable[[int], int] = lambda limit: limit,
        *,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._clock = clock
        self._quotas: dict[str, Quota] = {}
        self._early: dict[Quota, None] = {}
        """Those to be renewed at once."""
        self._touched: list[Quota] = []
        """Those that requests have asked for since the last sweep."""
        self._active: list[Quota] = []
        """Those of the last sweep: their leases are short."""
        self._sweep_at = 0.0
        self._round_at = 0.0
        self.away = not shared
        """Whether this process is left to its own part."""
        self.rouse: Callable[[], object] = lambda: None
        """Called when a lease should be renewed at once."""

    # --- the request path ---------------------------------------------------------------------------

    def reserve(self, deployment: Deployment, tokens: int) -> Reservation | None:
        """Take a request's part of a deployment's limits, or None where it has no room now.

        Args:
            deployment: Where the request is about to be sent.
            tokens: How many tokens it will use, as far as one can tell. More than the whole limit
                counts as the whole limit.
        """
        limits = deployment.limits
        if limits.rpm is None and limits.tpm is None and limits.max_concurrency is None:
            return FREE
        quota = self._quotas.get(deployment.id)
        if quota is None or quota.limits is not limits:
            quota = self._fitted(deployment)
        if not quota.touched:
            quota.touched = True
            self._touched.append(quota)
        if self._clock() >= quota.until:
            self._overdue(quota)
        slots, requests, rate = quota.slots, quota.requests, quota.tokens
        tick = None
        if rate is not None:
            tokens = min(tokens, rate.share if rate.local else rate.limit) or 1
            tick = rate.tick
        if (
            (slots is not None and slots.balance < 1)
            or (requests is not None and requests.balance < 1)
            or (rate is not None and rate.balance < tokens)
        ):
            if not self._found(quota, tokens):
                return None
            tick = None if rate is None else rate.tick
        if slots is not None:
            slots.spend()
            if slots.balance <= slots.low:
                self._renew_early(quota, slots)
        if requests is not None:
            requests.spend(1)
            if requests.balance <= requests.low:
                self._renew_early(quota, requests)
        if rate is not None:
            rate.spend(tokens)
            if rate.balance <= rate.low:
                self._renew_early(quota, rate)
        return Reservation(slots, rate, tick, tokens)

    def refusal(self, deployment: Deployment, tokens: int) -> Refusal:
        """Return why `reserve` has just said no."""
        quota = self._quotas.get(deployment.id)
        lacking = [] if quota is None else quota.lacking(tokens)
        wait = max((part.wait_until for part, _ in lacking), default=0.0) - self._clock()
        reasons = [_reason(part, deployment.limits) for part, _ in lacking]
        return Refusal(", ".join(reasons) or "its limits are just being renewed", max(1.0, wait))

    def crowded(self, deployment: Deployment, tokens: int) -> bool:
        """Return whether a deployment has no room, or four fifths of its slots in use, as far as is known here.

        Args:
            deployment: Where a request might go that can do without.
            tokens: As for `reserve`.
        """
        quota = self._quotas.get(deployment.id)
        if quota is None:
            return False
        if quota.lacking(tokens):
            return True
        slots = quota.slots
        if slots is None:
            return False
        if slots.local:
            return 5 * (slots.share - slots.in_use) <= slots.share
        return 5 * (slots.free + slots.balance) <= slots.limit

    def _fitted(self, deployment: Deployment) -> Quota:
        quota = self._quotas.get(deployment.id)
        if quota is None:
            quota = self._quotas[deployment.id] = Quota()
            self._early[quota] = None
            self.rouse()
        if quota.limits == deployment.limits:
            quota.limits = deployment.limits
            return quota
        quota.fit(deployment.id, deployment.limits, self._share)
        self._early[quota] = None
        if self.away:
            self.lose((quota,))
        return quota

    def _overdue(self, quota: Quota) -> None:
        if self.away:
            self._settle_locally(quota)
            return
        quota.until = math.inf
        for part in quota.parts():
            part.void()
        self._early[quota] = None
        self.rouse()

    def _found(self, quota: Quota, tokens: int) -> bool:
        """Look once more for room; where there is none, see to it that there will be."""
        if self.away:
            self._settle_locally(quota)
        lacking = quota.lacking(tokens)
        now = self._clock()
        for part, units in lacking:
            part.refuse(units)
            if not self.away and now >= part.short_until:
                self._early[quota] = None
                self.rouse()
        return not lacking

    def _renew_early(self, quota: Quota, part: Rate | Slots) -> None:
        part.low = -1
        self._early[quota] = None
        self.rouse()

    def _settle_locally(self, quota: Quota) -> None:
        now = self._clock()
        quota.until = now + _RENEWAL
        for part in quota.parts():
            part.settle_locally(now)

    # --- off the request path -----------------------------------------------------------------------

    def learn(self, deployments: Iterable[Deployment]) -> None:
        """Prepare for deployments before they are asked for; forget those that are no more and not in use."""
        named = {found.id: found for found in deployments if found.limits != Limits()}
        for gone in self._quotas.keys() - named.keys():
            slots = self._quotas[gone].slots
            if slots is None or not slots.in_use:
                del self._quotas[gone]
        for deployment in named.values():
            self._fitted(deployment)

    def all(self) -> list[Quota]:
        """Return every quota."""
        return list(self._quotas.values())

    def due(self) -> tuple[list[Quota], list[Quota]]:
        """Return the quotas to report and renew now: those in use, and those at rest.

        Who runs low is in use, and once a second whoever was asked for. Those at rest come once when
        they come to rest, and then a few times a minute: a registry may hold thousands of them.
        """
        now = self._clock()
        early, self._early = self._early, {}
        resting: list[Quota] = []
        if now >= self._sweep_at:
            self._sweep_at = now + _RENEWAL
            touched, self._touched = self._touched, []
            for quota in touched:
                early[quota] = None
                quota.touched = quota.slots is not None and quota.slots.in_use > 0
                if quota.touched:
                    self._touched.append(quota)
            resting = [quota for quota in self._active if quota not in early]
            self._active = touched
            if not early and not resting:
                # Somebody asks, so that a store that goes away or comes back is noticed.
                early = dict.fromkeys(list(self._quotas.values())[:1])
        if self.away or now >= self._round_at:
            self._round_at = now + _ROUND
            resting = [quota for quota in self._quotas.values() if quota not in early and not quota.touched]
        return list(early), resting

    def ask(self, quotas: Sequence[Quota]) -> list[Ask]:
        """Return what to tell the store; each call is followed by `take` or `lose` with the same quotas."""
        now = self._clock()
        asks = []
        for quota in quotas:
            asks += [part.ask(now) for part in quota.parts()]
        return asks

    def take(self, quotas: Sequence[Quota], asks: Sequence[Ask], grants: Sequence[Grant], until: float) -> None:
        """Go on with what the store has granted, until then at most (by this limiter's clock)."""
        now = self._clock()
        self.away = False
        granted = {ask.key: grant for ask, grant in zip(asks, grants, strict=True)}
        for quota in quotas:
            quota.until = until
            for part in quota.parts():
                grant = granted.get(part.key)
                if grant is not None:  # else the limit has come while the store was asked
                    part.take(grant, now)

    def lose(self, quotas: Iterable[Quota] | None = None) -> None:
        """The store does not answer: go on with this process's own part (of all quotas, where none are given)."""
        now = self._clock()
        self.away = True
        for quota in self._quotas.values() if quotas is None else quotas:
            quota.until = now + _RENEWAL
            for part in quota.parts():
                part.lose(now)


def _reason(part: Rate | Slots, limits: Limits) -> str:
    if isinstance(part, Slots):
        return f"{limits.max_concurrency} requests are in flight"
    if part.key.startswith("rpm:"):
        return f"{limits.rpm} requests a minute are used up"
    return f"{limits.tpm} tokens a minute are used up"
