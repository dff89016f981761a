"""Chance: repeatable, even, and true to weights."""

from __future__ import annotations

from collections import Counter

import pytest

from router.routing.lottery import Chance


def test_chance_is_splitmix64() -> None:
    """The published generator's first numbers for the seed 1234567."""
    chance = Chance(1234567)
    assert [chance.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_chance_shuffles_by_weight() -> None:
    """Each leads in proportion to its weight; all come, once."""
    weights = {1: 1.0, 2: 3.0, 3: 6.0}
    leads: Counter[int] = Counter()
    for seed in range(5000):
        order = Chance(seed).shuffled([1, 2, 3], weights.__getitem__)
        assert sorted(order) == [1, 2, 3]
        leads[order[0]] += 1
    for number, weight in weights.items():
        assert leads[number] / 5000 == pytest.approx(weight / 10, abs=0.03)
