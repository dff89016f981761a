"""How scores add up to one, and which sums count as equal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from router.routing.scorers import SCORERS

__all__ = ["DEFAULT_WEIGHTS", "LEVELS", "level_of", "shares_of"]

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType({"quality": 0.5, "cost": 0.3, "latency": 0.2, "affinity": 0.1})

LEVELS = 50
"""Scores come in this many steps above 0; within one, weights and chance balance."""


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """Return what part of the whole each scorer counts, in the order of `SCORERS`; without those that count nothing."""
    counted = {name: weights[name] for name in SCORERS if weights.get(name, 0.0) > 0}
    total = math.fsum(counted.values())
    return {name: weight / total for name, weight in counted.items()}


def level_of(score: float) -> int:
    """Return the step that a score in [0, 1] belongs to, from 0 to `LEVELS`."""
    return int(score * LEVELS + 0.5)
