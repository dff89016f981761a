"""What a process asks of the store that leases budgets, and what it is granted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["BUCKETS", "HUNGER", "Ask", "Grant", "LeaseStore"]

BUCKETS = 60
"""A window is counted in so many steps; what is spent counts for one step longer than the window."""
HUNGER = 1500
"""Milliseconds for which holders are told that another got less than it needs."""


class Ask(NamedTuple):
    """One holder's report about one limit, and its wish. All counts are units: requests, tokens or slots.

    Attributes:
        key: The limit; a plain string that all processes agree on.
        limit: Units a window, or units at a time.
        window: Milliseconds; 0 where units are held rather than spent.
        total: What this holder has ever spent, whether leased or not.
        acked: How much of that the store has confirmed.
        recent: What it has spent within the last window, for a store that has lost its memory.
        keep: Leased and unspent units that it goes on holding; it returns all others.
        must: Units in use, which count whether the store knows of them or not.
        want: Units that it would like to hold.
        need: Units without which it refuses requests; others are told to go easy where it gets less.
        refunds: Steps and the units in each that turned out not to be needed.
        era: The store's memory that it knows; 0 at first.
    """

    key: str
    limit: int
    window: int
    total: int = 0
    acked: int = 0
    recent: int = 0
    keep: int = 0
    must: int = 0
    want: int = 0
    need: int = 0
    refunds: tuple[tuple[int, int], ...] = ()
    era: int = 0


class Grant(NamedTuple):
    """The store's answer.

    Attributes:
        kept: Whether what the holder wanted to keep is still its own.
        units: What it may spend in addition.
        step: The step of the window in which its report was booked.
        free: Units that are left for anybody.
        holders: How many processes hold or spend this limit.
        hungry: Whether somebody got less than it needs a moment ago.
        wait: Milliseconds after which there may be more; 0 where all that was wanted was granted.
        era: The store's memory.
    """

    kept: bool
    units: int
    step: int
    free: int
    holders: int
    hungry: bool
    wait: int
    era: int


class LeaseStore(Protocol):
    """Shares budgets out to processes; what is spent and what is leased never exceed a limit together.

    A lease that is not renewed ends after its time and counts as spent: its holder may have spent
    it and died. Every call is bounded in time and never raises.
    """

    @property
    def available(self) -> bool:
        """Whether the store answered last time."""
        ...

    async def lease(self, holder: str, asks: Sequence[Ask], ttl: float) -> Sequence[Grant] | None:
        """Book what a holder has spent, and renew its leases.

        Args:
            holder: The process, by a name that no other has.
            asks: What it reports and wants.
            ttl: Seconds after which its leases end by themselves.

        Returns:
            A grant for each ask, or None where the store is away; the call may have taken effect.
        """
        ...
