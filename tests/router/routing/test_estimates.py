"""What a request would cost before anybody knows."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from router.routing.estimates import blended_price, estimate_cost, proportional, token_mix
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


@given(st.integers(0, 10**7), st.none() | st.integers(1, 10**6), st.integers(1, 8))
def test_token_mix_is_the_ratio_in_octaves(prompt: int, most: int | None, choices: int) -> None:
    """The ratio that a mix stands for is within half an octave of the true one, or at the end of the scale."""
    mix = token_mix(replace(FEATURES, prompt_tokens=prompt, max_tokens=most, choices=choices))
    ratio = (most or 500) * choices / max(1, prompt)
    if -6 < mix < 6:
        assert 2.0 ** (mix - 1) <= ratio < 2.0**mix
    else:
        assert mix == (6 if ratio > 1 else -6)


def test_blended_price_weighs_output_by_the_mix() -> None:
    """The more is answered for what is asked, the more the price of output counts."""
    assert blended_price(Price(Decimal(3)), 0) is None
    even = blended_price(CHEAP, 0)
    long = blended_price(CHEAP, 6)
    assert even == pytest.approx(1 + 2 * 2**-0.5)
    assert long == pytest.approx(1 + 2 * 2**5.5)


def test_prices_are_proportional_where_no_mix_changes_their_order() -> None:
    """Free and unknown prices fit any others."""
    twice = Price(Decimal(2), None, Decimal(4))
    assert proportional([CHEAP, twice, Price(), Price(Decimal(0), None, Decimal(0))])
    assert not proportional([CHEAP, Price(Decimal(1), None, Decimal(3))])


def test_cost_of_embeddings_needs_no_output_price() -> None:
    """Nothing comes out that costs, so a price for it may be unknown; for an answer with text it may not."""
    embeddings = make_deployment(price=Price(input=Decimal(2)))
    asked = replace(FEATURES, prompt_tokens=500_000, max_tokens=0)
    assert estimate_cost(asked, embeddings) == 1
    assert token_mix(asked) == -6
    assert estimate_cost(replace(asked, max_tokens=1), embeddings) is None
