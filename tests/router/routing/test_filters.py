"""Filters: what cannot or must not serve a request, and why."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from router.routing.filters import FILTERS
from router.types import DeploymentHealth, Features, Limits, Price
from tests.router.routing.worlds import CHEAP, FEATURES
from tests.support.nouns import make_backend, make_deployment, make_model


def reason(
    name: str,
    features: Features = FEATURES,
    model: dict[str, Any] | None = None,
    deployment: dict[str, Any] | None = None,
    **health: Any,
) -> str | None:
    """What a filter says."""
    place = make_deployment("m@b", **(deployment or {}))
    return dict(FILTERS)[name](features, make_model("m", place, **(model or {})), place, DeploymentHealth(**health))


AGENT = {"backend": make_backend(dialect="local_agent", tier="local")}


@pytest.mark.parametrize("privacy", ["local", "cluster", "any"])
@pytest.mark.parametrize("tier", ["local", "cluster", "external"])
def test_privacy_keeps_a_request_within_its_tiers(privacy: Any, tier: Any) -> None:
    """Each label reaches its own tier and those that are closer."""
    tiers = ["local", "cluster", "external"]
    allowed = tiers.index(tier) <= ["local", "cluster", "any"].index(privacy)
    said = reason("privacy", replace(FEATURES, privacy=privacy), deployment={"backend": make_backend(tier=tier)})
    assert (said is None) is allowed


@pytest.mark.parametrize(
    ("needs", "capabilities", "said"),
    [
        ({"chat"}, {"chat"}, None),
        ({"chat", "tools"}, {"chat", "tools", "vision"}, None),
        ({"chat", "tools", "vision"}, {"chat"}, "lacks tools, vision"),
        ({"chat"}, {"embeddings"}, "lacks chat"),
        ({"chat", "tools"}, set(), None),
    ],
)
def test_capability_rejects_what_is_known_to_be_missing(
    needs: set[str], capabilities: set[str], said: str | None
) -> None:
    """A model without known capabilities is not suspected of lacking any."""
    features = replace(FEATURES, needs=frozenset(needs))
    assert reason("capability", features, {"capabilities": frozenset(capabilities)}) == said


@pytest.mark.parametrize(
    ("needs", "capabilities", "said"),
    [
        ({"chat"}, {"chat", "tools"}, None),
        ({"chat"}, set(), None),
        ({"chat", "tools"}, {"chat", "tools"}, "lacks tools"),
        ({"chat", "tools"}, set(), "lacks tools"),
        ({"chat", "vision"}, {"vision"}, "lacks chat, vision"),
        ({"chat"}, {"embeddings"}, "lacks chat"),
    ],
)
def test_capability_knows_what_an_agent_has_fields_for(
    needs: set[str], capabilities: set[str], said: str | None
) -> None:
    """Behind `/infer` a model can do no more than text in, text out, whatever it could do elsewhere."""
    features = replace(FEATURES, needs=frozenset(needs))
    assert reason("capability", features, {"capabilities": frozenset(capabilities)}, AGENT) == said


def test_capability_gives_an_agent_one_choice() -> None:
    """Several choices need another backend."""
    assert (
        reason("capability", replace(FEATURES, choices=2), deployment=AGENT)
        == "a backend of dialect local_agent gives one choice (n = 1)"
    )
    assert reason("capability", replace(FEATURES, choices=2)) is None


def test_capability_asks_a_backend_for_endpoints_of_its_own() -> None:
    """What only such an endpoint can do goes to backends that say they have it."""
    features = replace(FEATURES, needs=frozenset({"native_responses"}))
    assert reason("capability", features) == "lacks native_responses"
    having = {"backend": make_backend(endpoints=frozenset({"responses"}))}
    assert reason("capability", features, deployment=having) is None


@pytest.mark.parametrize(("least", "length", "fits"), [(99, 100, True), (100, 100, False), (10**9, None, True)])
def test_context_rejects_what_is_certainly_too_long(least: int, length: int | None, fits: bool) -> None:
    """The lower bound decides; an unknown length fits everything."""
    features = replace(FEATURES, prompt_tokens_least=least)
    assert (reason("context", features, {"context_length": length}) is None) is fits


def test_health_leaves_alone_what_is_away() -> None:
    """A breaker's reason is told; a stale agent has its own."""
    assert reason("health") is None
    assert reason("health", available=False, reason="breaker open after x") == "breaker open after x"
    assert reason("health", available=False) == "unavailable"
    stale = {"backend": make_backend(stale=True)}
    assert reason("health", deployment=stale) == "the agent has missed three heartbeats"


@pytest.mark.parametrize(
    ("limit", "in_flight", "free"), [(None, 1000, True), (2, 1, True), (2, 2, False), (0, 0, False)]
)
def test_concurrency_respects_the_limit(limit: int | None, in_flight: int, free: bool) -> None:
    """One more than the limit is too many."""
    said = reason("concurrency", deployment={"limits": Limits(max_concurrency=limit)}, in_flight=in_flight)
    assert (said is None) is free


@pytest.mark.parametrize(
    ("price", "limit", "passes"),
    [
        (CHEAP, "1", True),
        (CHEAP, "0.0011", True),  # 100 prompt and 500 expected tokens at 1 and 2 USD a million
        (CHEAP, "0.00109", False),
        (Price(), "1000", False),
        (Price(Decimal(1)), "1000", False),
        (Price(None, None, Decimal(1)), "1000", False),
        (Price(Decimal(0), None, Decimal(0)), "0", True),
        (Price(), None, True),
    ],
    ids=str,
)
def test_cost_lets_only_known_prices_under_a_limit_pass(price: Price, limit: str | None, passes: bool) -> None:
    """An unknown price promises nothing, and zero is a price."""
    features = replace(FEATURES, max_cost_usd=None if limit is None else Decimal(limit))
    assert (reason("cost", features, deployment={"price": price}) is None) is passes


def test_cost_counts_the_length_and_every_choice() -> None:
    """A request for more costs more."""
    features = replace(FEATURES, max_cost_usd=Decimal("0.01"), max_tokens=2000, choices=3)
    said = reason("cost", features, deployment={"price": CHEAP})
    assert said == "expected cost 0.0121 USD exceeds 0.01 USD"


@pytest.mark.parametrize(
    ("limit", "measured", "passes"), [(None, 1e9, True), (300, None, True), (300, 300.0, True), (300, 300.1, False)]
)
def test_latency_rejects_what_is_known_to_be_slow(limit: int | None, measured: float | None, passes: bool) -> None:
    """Only a measured time can be too long."""
    assert (reason("latency", replace(FEATURES, first_token_ms=limit), first_token_ms=measured) is None) is passes


def test_filters_come_hard_constraints_first() -> None:
    """Privacy is the first reason that a rejection tells."""
    assert [name for name, _ in FILTERS][:3] == ["privacy", "capability", "pin"]
