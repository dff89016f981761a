"""What one process may spend of one limit right now: a lease, or its share where there is no store."""

from __future__ import annotations

import math

from router.limits.leases import BUCKETS, Ask, Grant
from router.limits.window import SlidingSum

__all__ = ["LOST", "Rate", "Slots", "Tick"]

MINUTE = 60.0
LOST = -1
_STEP = MINUTE / BUCKETS
_SPARE = 64
"""Requests that a process holds in reserve at most: more than come in while a renewal is under way."""
_AHEAD = 0.3
"""Seconds of its own demand that a process holds while others go short."""
_MEMORY = 1.0
"""Seconds over which demand is averaged."""


class Tick:
    """The time between two reports, in which reservations were made; it learns where the store booked them."""

    __slots__ = ("local", "refund", "step")

    def __init__(self) -> None:
        self.step: int | None = None
        """None until the store has answered, `LOST` where it has not."""
        self.local: int | None = None
        self.refund = 0


class _Limit:
    """What spent and held limits have in common.

    Args:
        key: The limit's name, the same in all processes.
        limit: Units in all.
        share: This process's part while there is no store.
        spare: Units that it holds in reserve at most.
    """

    def __init__(self, key: str, limit: int, share: int, spare: int) -> None:
        self.key = key
        self.limit = limit
        self.share = share
        self.spare = spare
        self.balance = 0
        """Units that may be spent now; below 0 where more was spent than was known to be needed."""
        self.low = -1
        """The balance at which to renew early; below 0 while a renewal is under way."""
        self.need = 0
        """Units that were refused and are still wanted."""
        self.local = False
        self.hungry = False
        self.holders = 1
        self.free = limit
        self.short_until = 0.0
        self.wait_until = 0.0
        self._demand = 0
        self._rate = 0.0
        self._asked = 0.0
        self._era = 0
        self._needed = 0

    @property
    def cap(self) -> int:
        """The most that one request may take."""
        return self.share if self.local else self.limit

    def refuse(self, units: int) -> None:
        """Note a request that there was no room for."""
        self._demand += units
        if units > self.need:
            self.need = min(units, self.limit)

    def _target(self, now: float) -> int:
        """Return how much to hold until the next report."""
        passed = now - self._asked
        if passed > 0:
            self._rate += (1 - math.exp(-passed / _MEMORY)) * (self._demand / passed - self._rate)
        self._asked, self._demand = now, 0
        lean = math.ceil(self._rate * _AHEAD) if self._rate * _AHEAD > 0.01 else 0
        self._needed = min(max(lean, self.need), self.limit)
        if self.hungry:
            return self._needed
        # No more than is left for others, so that whoever is short finds something at once.
        fair = min(self.limit // (2 * self.holders), (self.free + max(0, self.balance)) // 2)
        reserve = max(1, 2 * lean, min(fair, max(5 * lean, self.spare)))
        return min(max(reserve, self.need), self.limit)

    def _learn(self, grant: Grant, wanted: int, got: int, now: float) -> None:
        self.local = False
        self._era = grant.era
        self.free, self.holders, self.hungry = grant.free, grant.holders, grant.hungry
        if self.balance >= self.need:
            self.need = 0
        if got < wanted:
            # Asking again at once would only be told the same.
            self.short_until = now + 0.05
            self.wait_until = now + grant.wait / 1000
            self.low = -1
        else:
            self.short_until = self.wait_until = 0.0
            self.low = self.balance // 2


class Rate(_Limit):
    """A limit on what is spent within a minute: requests, or tokens."""

    def __init__(self, key: str, limit: int, share: int, spare: int | None = _SPARE) -> None:
        super().__init__(key, limit, share, limit if spare is None else spare)
        self.tick = Tick()
        self._total = 0
        self._acked = 0
        self._counted = 0
        self._history = SlidingSum()
        self._refunds: dict[int, int] = {}
        self._sent = (0, 0, 0, self.tick)
        self._contact: float | None = None
        self._cap = 0

    def spend(self, units: int) -> None:
        """Spend units of the balance, or beyond it where they have been used already."""
        self.balance -= units
        self._total += units
        self._demand += units

    def refund(self, units: int, tick: Tick) -> None:
        """Take back what was reserved and not used, where it was counted."""
        if tick is self.tick:
            self._total -= units
            self.balance += units
            return
        if tick.local is not None:
            self._history.take_back(tick.local, units)
        if tick.step is None:
            tick.refund += units
        elif tick.step != LOST:
            self._refunds[tick.step] = self._refunds.get(tick.step, 0) + units

    def ask(self, now: float) -> Ask:
        """Return the report and the wish for the store; surplus is returned from here on."""
        recent = self._absorb(now)
        target = self._target(now)
        keep = 0
        if not self.local:
            keep = self.balance = min(max(0, self.balance), target)
        refunds, self._refunds = tuple(self._refunds.items()), {}
        self._sent = (self._total, keep, target, self._new_tick(now))
        self.low = -1
        window = int(MINUTE * 1000)
        told = (self._total, self._acked, recent)
        return Ask(self.key, self.limit, window, *told, keep, 0, target, self._needed, refunds, self._era)

    def take(self, grant: Grant, now: float) -> None:
        """Go on with what the store has granted."""
        total, keep, target, tick = self._sent
        kept = keep if grant.kept else 0
        self.balance = kept + grant.units - (self._total - total)
        self._acked = total
        self._booked(tick, grant.step)
        self._contact = now
        self._learn(grant, target, kept + grant.units, now)

    def lose(self, now: float) -> None:
        """The store has not answered: go on with this process's own part."""
        self._booked(self._sent[3], LOST)
        if not self.local:
            self.local = True
            # What others have spent is known no more, only what was left: a fair part of that is ours.
            self._cap = self._absorb(now) + max(0, self.balance) + self.free // self.holders
        self.settle_locally(now)

    def settle_locally(self, now: float) -> None:
        """Renew the balance from this process's own part."""
        self.balance = self._own_cap(now) - self._absorb(now)
        self.low = -1
        if self.balance >= self.need:
            self.need = 0
        oldest = self._history.oldest()
        self.wait_until = 0.0 if oldest is None else (oldest + BUCKETS + 1) * _STEP

    def void(self) -> None:
        """The lease has run out."""
        self.balance = min(self.balance, 0)

    def _own_cap(self, now: float) -> int:
        """Return what this process may spend in a window while there is no store.

        For one window after the loss what it had and its part of what was free: others may have spent
        the rest. For a second one no more than that, and no more than its share: others may still go down
        to theirs. Then its share.
        """
        since = math.inf if self._contact is None else now - self._contact
        if since >= 2 * (MINUTE + _STEP):
            return self.share
        return self._cap if since < MINUTE + _STEP else min(self._cap, self.share)

    def _absorb(self, now: float) -> int:
        """Note in the history what has been spent since the last time; return what it holds."""
        step = int(now / _STEP)
        total = self._history.at(step)
        fresh = self._total - self._counted
        if fresh:
            self._history.add(step, fresh)
            self._counted = self._total
            if self.local:
                self._new_tick(now).step = LOST
        return total + fresh

    def _new_tick(self, now: float) -> Tick:
        tick, self.tick = self.tick, Tick()
        tick.local = int(now / _STEP)
        return tick

    def _booked(self, tick: Tick, step: int) -> None:
        if tick.step is None:
            tick.step = step
            if tick.refund and step != LOST:
                self._refunds[step] = self._refunds.get(step, 0) + tick.refund


class Slots(_Limit):
    """A limit on how many requests are under way at a time."""

    def __init__(self, key: str, limit: int, share: int) -> None:
        super().__init__(key, limit, share, _SPARE)
        self.in_use = 0
        self._sent = (0, 0, 0)

    def spend(self) -> None:
        """Take a slot."""
        self.balance -= 1
        self.in_use += 1
        self._demand += 1

    def ask(self, now: float) -> Ask:
        """Return the report and the wish for the store; surplus is returned from here on."""
        target = self._target(now)
        keep = self.in_use
        if not self.local:
            self.balance = min(self.balance, target)
            keep += max(0, self.balance)
        wanted = self.in_use + target
        self._sent = (keep, self.in_use, wanted)
        self.low = -1
        needed = self.in_use + self._needed
        return Ask(self.key, self.limit, 0, keep=keep, must=self.in_use, want=wanted, need=needed, era=self._era)

    def take(self, grant: Grant, now: float) -> None:
        """Go on with what the store has granted."""
        keep, must, wanted = self._sent
        held = (keep if grant.kept else must) + grant.units
        self.balance = held - self.in_use
        self._learn(grant, wanted, held, now)

    def lose(self, now: float) -> None:
        """The store has not answered: go on with this process's own part."""
        self.local = True
        self.settle_locally(now)

    def settle_locally(self, _now: float) -> None:
        """Renew the balance from this process's own part."""
        self.balance = self.share - self.in_use
        self.low = -1
        if self.balance >= self.need:
            self.need = 0

    def void(self) -> None:
        """The lease has run out."""
        self.balance = min(self.balance, 0)
