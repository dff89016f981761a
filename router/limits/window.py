"""SlidingSum: how much was spent within a window that slides in steps."""

from __future__ import annotations

from router.limits.leases import BUCKETS

__all__ = ["SlidingSum"]


class SlidingSum:
    """Units by step; a step counts until it lies `BUCKETS` whole steps back."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._sum = 0
        self._now = 0

    def add(self, step: int, units: int) -> None:
        """Count units in a step, which must not lie before one seen earlier."""
        if units:
            self._steps[step] = self._steps.get(step, 0) + units
            self._sum += units

    def take_back(self, step: int, units: int) -> None:
        """Uncount units of a step; one that is over already has been uncounted."""
        counted = self._steps.get(step)
        if counted is not None:
            returned = min(counted, units)
            self._steps[step] = counted - returned
            self._sum -= returned

    def at(self, step: int) -> int:
        """Return the sum as of a step."""
        if step != self._now:
            self._now = step
            # Steps were added in order, and dictionaries keep it.
            for old in list(self._steps):
                if old >= step - BUCKETS:
                    break
                self._sum -= self._steps.pop(old)
        return self._sum

    def oldest(self) -> int | None:
        """Return the first step that still counts something, or None."""
        return next((step for step, units in self._steps.items() if units), None)
