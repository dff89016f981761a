"""Chance that can be repeated: the same seed draws the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["Chance"]

_WORD = 2**64 - 1


class Chance:
    """A stream of random numbers: SplitMix64 (Steele, Lea and Flood, 2014), which starts at no cost.

    Args:
        seed: Any whole number.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _WORD

    def bits(self) -> int:
        """Return the next 64 random bits."""
        self._state = mixed = (self._state + 0x9E3779B97F4A7C15) & _WORD
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _WORD
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _WORD
        return mixed ^ mixed >> 31

    def shuffled(self, numbers: Sequence[int], weight: Callable[[int], float]) -> list[int]:
        """Return the numbers in the order of a weighted draw without repetition (Efraimidis and Spirakis, 2006)."""
        waits = {number: -math.log((self.bits() + 1) / (_WORD + 2)) / weight(number) for number in numbers}
        return sorted(numbers, key=waits.__getitem__)
