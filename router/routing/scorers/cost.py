"""Cost: free is 1, the most expensive candidate and those of unknown price are 0."""

from __future__ import annotations

from collections.abc import Sequence

from router.interfaces import Health
from router.routing.estimates import blended_price, token_mix
from router.types import Candidate, Features

__all__ = ["score_cost"]

_DIGITS = 6
"""Finer differences come from rounding alone."""


def score_cost(features: Features, candidates: Sequence[Candidate], _health: Health) -> list[float]:
    """Return how cheap each candidate is against the most expensive one, in [0, 1].

    Prices are compared at the request's token mix, not at its exact length.
    """
    mix = token_mix(features)
    prices = [blended_price(candidate.deployment.price, mix) for candidate in candidates]
    known = [price for price in prices if price is not None]
    most = max(known, default=0.0)
    return [_score(price, most, alone=len(known) == 1) for price in prices]


def _score(price: float | None, most: float, *, alone: bool) -> float:
    if price is None:
        return 0.0
    if not price:
        return 1.0
    return 0.5 if alone else round(1.0 - price / most, _DIGITS)
