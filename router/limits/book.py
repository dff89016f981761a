"""LeaseBook: who holds how much of which limit; the arithmetic that Redis does in Lua, in Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.limits.leases import BUCKETS, HUNGER, Ask, Grant
from router.limits.window import SlidingSum

__all__ = ["LeaseBook"]


@dataclass(slots=True)
class _Lease:
    units: int
    ends: int
    total: int


@dataclass(slots=True)
class _Page:
    era: int
    spent: SlidingSum = field(default_factory=SlidingSum)
    leases: dict[str, _Lease] = field(default_factory=dict)
    hungry_until: int = 0


class LeaseBook:
    """Limits and their leases, without a clock of its own.

    A sliding window in steps: units count from before they are spent (as a lease) until a whole
    window after they were reported (in a step). At every moment spent and leased units together
    stay within the limit, but for what a holder reports beyond its lease.
    """

    def __init__(self) -> None:
        self._pages: dict[str, _Page] = {}

    def lease(self, holder: str, ask: Ask, now: int, ttl: int) -> Grant:
        """Book a report and renew a lease.

        Args:
            holder: Who asks.
            ask: What it reports and wants.
            now: Milliseconds, of a clock that all calls share.
            ttl: Milliseconds after which the lease ends.
        """
        page = self._pages.get(ask.key)
        if page is None:
            page = self._pages[ask.key] = _Page(now)
        width = max(1, ask.window // BUCKETS)
        step = now // width
        spent = page.spent.at(step)
        for name, lease in list(page.leases.items()):
            if lease.ends <= now:
                del page.leases[name]
                if ask.window:
                    page.spent.add(step, lease.units)  # its holder may have spent it all and died
        mine = page.leases.get(holder)
        if ask.window:
            page.spent.add(step, max(0, _unbooked(ask, page.era, mine)))
            if ask.era == page.era:
                for at, units in ask.refunds:
                    page.spent.take_back(at, units)
        spent = page.spent.at(step)
        held = max(ask.must, ask.keep) if mine is not None else ask.must
        others = sum(lease.units for name, lease in page.leases.items() if name != holder)
        free = max(0, ask.limit - spent - others - held)
        units = max(0, min(ask.want - held, free))
        wait = 0
        if ask.want > held + units:
            if ask.need > held + units:
                page.hungry_until = now + HUNGER
            oldest = page.spent.oldest()
            wait = 1 if oldest is None else max(1, (oldest + 1) * width + ask.window - now)
        page.leases[holder] = _Lease(held + units, now + ttl, ask.total)
        hungry = now < page.hungry_until
        return Grant(mine is not None, units, step, free - units, len(page.leases), hungry, wait, page.era)


def _unbooked(ask: Ask, era: int, mine: _Lease | None) -> int:
    """Return what a holder has spent that is not in the book."""
    if ask.era != era:
        return ask.recent
    return ask.total - (ask.acked if mine is None else mine.total)
