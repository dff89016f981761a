"""What a request would cost on a deployment, before anybody knows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal

from router.types import Deployment, Features, Price, Usage

__all__ = ["blended_price", "estimate_cost", "expected_completion", "proportional", "token_mix"]

EXPECTED_COMPLETION_TOKENS = 500
"""A common length of a chat answer where the caller sets no limit."""
_WIDEST = 6
"""Octaves; beyond a ratio of 1 to 64 one of the two prices is all that counts."""


def estimate_cost(features: Features, deployment: Deployment) -> Decimal | None:
    """Return the expected cost in USD, or None where a price is unknown."""
    completion = expected_completion(features)
    return deployment.price.cost(Usage(features.prompt_tokens, completion, source="estimated"))


def expected_completion(features: Features) -> int:
    """Return how many tokens an answer is expected to have; embeddings have none."""
    expected = EXPECTED_COMPLETION_TOKENS if features.max_tokens is None else features.max_tokens
    return expected * features.choices


def token_mix(features: Features) -> int:
    """Return the ratio of expected completion to prompt tokens in octaves, from -6 to 6.

    Deployments are compared at this ratio rather than at the exact one, so that the comparison
    holds for many requests.
    """
    ratio = expected_completion(features) / (features.prompt_tokens or 1)
    mix = math.frexp(ratio)[1] if ratio else -_WIDEST
    return mix if -_WIDEST <= mix <= _WIDEST else (_WIDEST if mix > 0 else -_WIDEST)


def blended_price(price: Price, mix: int) -> float | None:
    """Return a price in USD for a million prompt tokens and what a mix adds to them, or None where it is unknown.

    It is for comparing alone: amounts of money come from `estimate_cost`.
    """
    if price.input is None or price.output is None:
        return None
    ratio: float = 2.0 ** (mix - 0.5)  # `frexp` puts a ratio in [2 ** (mix - 1), 2 ** mix); this is the middle
    return float(price.input) + float(price.output) * ratio


def proportional(prices: Iterable[Price]) -> bool:
    """Return whether prices stand in the same proportion at every mix: each one's input to its output alike."""
    known = {
        round(math.atan2(price.output, price.input), 12)
        for price in prices
        if price.input is not None and price.output is not None and (price.input or price.output)
    }
    return len(known) <= 1
