"""What a request would cost before anybody knows."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from router.routing.estimates import estimate_cost
from router.types import Price, Usage
from tests.router.routing.worlds import CHEAP, FEATURES
from tests.support.nouns import make_deployment


def test_estimate_is_exact_money() -> None:
    """Prompt and expected completion at their prices, in Decimal."""
    deployment = make_deployment("m@b", price=CHEAP)
    assert estimate_cost(FEATURES, deployment) == Decimal("0.0011")
    assert estimate_cost(replace(FEATURES, max_tokens=10, choices=2), deployment) == Decimal("0.00014")


@pytest.mark.parametrize("price", [Price(), Price(Decimal(1)), Price(None, Decimal(1), Decimal(1))])
def test_estimate_of_an_unknown_price_is_unknown(price: Price) -> None:
    """Unknown is never zero."""
    assert estimate_cost(FEATURES, make_deployment("m@b", price=price)) is None


def test_price_charges_cached_tokens_once() -> None:
    """Cached tokens have their own price, or that of the others where they have none."""
    usage = Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=4, reasoning_tokens=1)
    million = Decimal(1_000_000)
    assert Price(Decimal(1), Decimal("0.5"), Decimal(3)).cost(usage) == Decimal(14) / million
    assert Price(Decimal(1), None, Decimal(3)).cost(usage) == Decimal(16) / million
