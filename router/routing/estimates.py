"""What a request would cost on a deployment, before anybody knows."""

from __future__ import annotations

from decimal import Decimal

from router.types import Deployment, Features, Usage

__all__ = ["estimate_cost"]

EXPECTED_COMPLETION_TOKENS = 500
"""A common length of a chat answer where the caller sets no limit."""


def estimate_cost(features: Features, deployment: Deployment) -> Decimal | None:
    """Return the expected cost in USD, or None where a price is unknown."""
    completion = (features.max_tokens or EXPECTED_COMPLETION_TOKENS) * features.choices
    return deployment.price.cost(Usage(features.prompt_tokens, completion, source="estimated"))
