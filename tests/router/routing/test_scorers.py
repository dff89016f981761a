"""Scorers: each in [0, 1], each for one thing."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from router.routing.scorers import SCORERS
from router.routing.scorers.affinity import Ring
from router.types import Candidate, DeploymentHealth, Price
from tests.router.routing.worlds import FEATURES
from tests.support.nouns import make_deployment, make_model


def candidate(name: str = "m@b", cost: Decimal | None = None, weight: float = 1.0, **quality: float) -> Candidate:
    """A candidate; `cost` is its price for input and for output."""
    deployment = make_deployment(name, weight=weight, price=Price(cost, None, cost))
    return Candidate(make_model(deployment.model, deployment, quality=quality), deployment)


def scores(name: str, *candidates: Candidate, session: str | None = None, **health: DeploymentHealth) -> list[float]:
    """What a scorer says; health by backend name."""
    features = replace(FEATURES, session=session)
    return SCORERS[name](features, candidates, {f"m@{place}": state for place, state in health.items()})


@given(
    st.sampled_from(sorted(SCORERS)),
    st.lists(
        st.tuples(
            st.none() | st.decimals(0, 100),
            st.floats(0, 10),
            st.floats(-1, 2) | st.just(float("nan")),
            st.integers(0, 1000),
            st.none() | st.floats(0, 1e7),
            st.floats(0, 1),
        ),
        max_size=5,
    ),
    st.none() | st.just("s"),
)
def test_scorers_stay_within_bounds(
    name: str, drawn: list[tuple[Decimal | None, float, float, int, float | None, float]], session: str | None
) -> None:
    """One score for each candidate, in order, in [0, 1], whatever is known of it."""
    candidates = [
        candidate(f"m@{index}", cost, weight, overall=quality)
        for index, (cost, weight, quality, *_) in enumerate(drawn)
    ]
    health = {
        f"m@{index}": DeploymentHealth(in_flight=flying, first_token_ms=first, failure_rate=rate)
        for index, (*_, flying, first, rate) in enumerate(drawn)
    }
    given_scores = SCORERS[name](replace(FEATURES, session=session), candidates, health)
    assert len(given_scores) == len(candidates)
    assert all(0 <= score <= 1 for score in given_scores)


def test_quality_is_what_the_registry_says() -> None:
    """A model that nobody rated ranks below one that somebody rated well."""
    good, poor, unrated = scores("quality", candidate(overall=0.8), candidate(overall=0.1), candidate(code=0.9))
    assert (good, poor) == (0.8, 0.1)
    assert poor < unrated < good


def test_cost_compares_with_the_most_expensive() -> None:
    """Free is 1, the most expensive 0, half the price a half, an unknown price 0."""
    costs = [Decimal(0), Decimal("0.5"), Decimal(1), None]
    assert scores("cost", *(candidate(cost=cost) for cost in costs)) == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(("cost", "score"), [(Decimal(0), 1.0), (Decimal(5), 0.5), (None, 0.0)])
def test_cost_of_a_single_candidate_is_neither_cheap_nor_dear(cost: Decimal | None, score: float) -> None:
    """With nothing to compare, only free and unknown are certain."""
    assert scores("cost", candidate(cost=cost)) == [score]


def test_latency_falls_with_the_wait_the_load_and_the_failures() -> None:
    """A first token after a second is a half; load multiplies the wait, weight divides the load."""
    one = DeploymentHealth(first_token_ms=1000.0)
    busy = replace(one, in_flight=2)
    failing = replace(one, failure_rate=0.5)
    assert scores("latency", candidate("m@a"), a=one) == [0.5]
    assert scores("latency", candidate("m@a"), a=busy) == [0.25]
    assert scores("latency", candidate("m@a", weight=2.0), a=busy) == [pytest.approx(1 / 3)]
    assert scores("latency", candidate("m@a"), a=failing) == [0.25]


def test_latency_tries_the_untried() -> None:
    """A deployment without a measurement is taken for a quick one."""
    untried, slow = scores("latency", candidate("m@a"), candidate("m@b"), b=DeploymentHealth(first_token_ms=900.0))
    assert untried > slow


def test_affinity_gives_a_session_one_home() -> None:
    """One candidate has it all, the same one in any order; without a session nobody has."""
    candidates = [candidate(f"m@{letter}") for letter in "abcde"]
    there = scores("affinity", *candidates, session="s")
    assert sorted(there) == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert scores("affinity", *reversed(candidates), session="s") == there[::-1]
    assert scores("affinity", *candidates) == [0.0] * 5
    assert scores("affinity", session="s") == []


@given(st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=30), st.text(max_size=5))
def test_ring_finds_the_homes_that_the_scorer_names(places: set[str], session: str) -> None:
    """In order, each home is the one that the scorer names once those before it are gone."""
    names = [f"m@{place}" for place in sorted(places)]
    homes = Ring(names).homes(session, len(names))
    assert sorted(homes) == list(range(len(names)))
    assert Ring(names).homes(session, 3) == homes[:3]
    left = [candidate(name) for name in names]
    for home in homes:
        there = scores("affinity", *left, session=session)
        assert left.pop(there.index(1.0)).deployment.id == names[home]


def test_affinity_spreads_sessions_evenly() -> None:
    """No deployment is home to many more sessions than another."""
    homes = Counter(Ring([f"m@{index}" for index in range(20)]).homes(str(session), 1)[0] for session in range(4000))
    assert max(homes.values()) < 1.5 * 200
    assert min(homes.values()) > 0.5 * 200
