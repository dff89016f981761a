"""Planner.rank(): decide()'s ranking, but for lots among equals, whatever happens to health."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.health import HealthBoard
from router.routing.plan import Planner, Ranking
from router.routing.weights import DEFAULT_WEIGHTS, level_of
from router.types import Candidate, Decision, DeploymentHealth, Limits, Model
from shared.errors import UpstreamUnavailable
from tests.router.routing.feeds import Script, Shelf, oracle
from tests.router.routing.worlds import (
    CHEAP,
    FEATURES,
    World,
    crowds,
    draw_crowd_features,
    draw_features,
    draw_health,
    world,
    worlds,
)
from tests.support.nouns import make_deployment, make_model

_seeds = st.integers(0, 2**32 - 1)


def names(candidates: Iterable[Candidate]) -> list[str]:
    """The deployments' ids."""
    return [candidate.deployment.id for candidate in candidates]


def equals(shelf: Shelf, decision: Decision) -> list[set[str]]:
    """The ids of a decision in order, those that only lots put in order together."""
    places = {model.id: 0 for model in shelf.members(shelf.policy)}
    places |= {name: place for place, name in enumerate(shelf.models, start=1) if name not in places}

    def standing(candidate: Candidate) -> tuple[int, int, int]:
        return places[candidate.model.id], candidate.deployment.priority, level_of(candidate.score)

    return [set(names(group)) for _, group in groupby(decision.ranking, key=standing)]


def assert_agrees(ranking: Ranking, shelf: Shelf, decision: Decision) -> None:
    """A ranking is the decision's but for lots among equals."""
    ranked = names(ranking)
    assert sorted(ranked) == sorted(names(decision.ranking))
    assert bool(ranking) == bool(decision.ranking)
    for group in equals(shelf, decision):
        assert set(ranked[: len(group)]) == group
        del ranked[: len(group)]


@given(worlds | crowds, _seeds, st.integers(0, 40))
def test_ranking_is_that_of_decide_but_for_lots(one: World, seed: int, reach: int) -> None:
    """The same candidates in the same order of standing, after any changes of health, for any requests."""
    chance = Random(seed)
    shelf, feed = Shelf(one), Script(one.health, reach)
    planner = Planner(feed)
    ids = [deployment.id for deployment in one.deployments()]
    kinds = [one.features, *(draw_features(chance) for _ in range(2)), *(draw_crowd_features(chance) for _ in range(3))]
    for _ in range(9):
        features, fallback = chance.choice(kinds), chance.random() < 0.5
        ranking = planner.rank(shelf, shelf.policy, shelf.weights, features, seed, fallback)
        assert_agrees(ranking, shelf, oracle(shelf, features, feed.health, seed, fallback=fallback))
        for name in chance.choices([*ids, "elsewhere"], k=chance.choice((0, 1, 3, 30))):
            feed.put(name, draw_health(chance))


@given(worlds | crowds, _seeds)
def test_ranking_depends_on_what_is_not_on_how_it_came_about(one: World, seed: int) -> None:
    """A planner that followed every change and one that starts now give the same ranking for the same seed."""
    chance = Random(seed)
    shelf, feed = Shelf(one), Script(one.health)
    old = Planner(feed)
    for _ in range(20):
        old.rank(shelf, shelf.policy, shelf.weights, one.features, chance.getrandbits(32))
        for deployment in chance.sample(one.deployments(), len(one.deployments()) // 2):
            feed.put(deployment.id, draw_health(chance))
    first, again, other = (
        names(planner.rank(shelf, shelf.policy, shelf.weights, one.features, seed))
        for planner in (old, old, Planner(feed))
    )
    assert first == again == other


@given(worlds | crowds, _seeds)
def test_ranking_never_offers_what_is_refused_by_then(one: World, seed: int) -> None:
    """What changes while a ranking is gone through counts from then on; nobody comes twice or is left out."""
    chance = Random(seed)
    shelf, feed = Shelf(one), Script(one.health)
    offered: list[str] = []

    def allowed() -> set[str]:
        return set(names(oracle(shelf, one.features, feed.health, seed, fallback=False).ranking))

    ranking = Planner(feed).rank(shelf, shelf.policy, shelf.weights, one.features, seed, fallback=False)
    for candidate in ranking:
        offered.append(candidate.deployment.id)
        assert offered[-1] in allowed()
        for deployment in chance.sample(one.deployments(), len(one.deployments())) if chance.random() < 0.2 else ():
            feed.put(deployment.id, draw_health(chance))
    assert len(set(offered)) == len(offered)
    assert not offered or allowed() <= set(offered)


@given(worlds | crowds, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 4), st.floats(0, 50)), max_size=60))
def test_ranking_follows_a_health_board(one: World, events: list[tuple[int, int, float]]) -> None:
    """The board tells every change that a ranking depends on, those that time brings included."""
    now = [1000.0]
    board = HealthBoard(lambda: now[0])
    shelf, planner = Shelf(one), Planner(board)
    places = one.deployments()
    for which, what, amount in events if places else ():
        deployment = places[which % len(places)]
        if what == 0:
            board.begin(deployment)
        elif what == 1:
            board.end(deployment)
        elif what == 2:
            board.succeed(deployment, amount * 100)
        elif what == 3:
            for _ in range(5):
                board.fail(deployment, UpstreamUnavailable("down"))
        else:
            now[0] += amount
        ranking = planner.rank(shelf, shelf.policy, shelf.weights, one.features, which)
        assert_agrees(ranking, shelf, oracle(shelf, one.features, board.snapshot(), which))


# --- lots -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.001, 1000.0])
@pytest.mark.parametrize("limit", [None, 5000])
def test_first_pick_follows_the_weights(scale: float, limit: int | None) -> None:
    """Of equals each leads in proportion to its weight, with and without something to check."""
    shares = {"m@a": 1.0, "m@b": 2.0, "m@c": 5.0, "m@d": 0.3, "m@e": 1.7}
    model = make_model("m", *(make_deployment(name, weight=share * scale) for name, share in shares.items()))
    shelf = Shelf(world(model))
    planner = Planner(Script({}))
    features = structs.replace(FEATURES, first_token_ms=limit)
    seeds = 10_000
    leads: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for seed in range(seeds):
        order = names(planner.rank(shelf, shelf.policy, shelf.weights, features, seed))
        leads[order[0]] += 1
        if order[0] == "m@c":
            seconds[order[1]] += 1
    for name, share in shares.items():
        assert leads[name] / seeds == pytest.approx(share / 10, abs=0.02)
        if name != "m@c":
            assert seconds[name] / leads["m@c"] == pytest.approx(share / 5, abs=0.03)


def test_first_pick_among_equal_weights_is_even() -> None:
    """Each of a hundred leads about as often as any other."""
    shelf = Shelf(world(make_model("m", *(make_deployment(f"m@{index}") for index in range(100)))))
    planner = Planner(Script({}))
    chance = Random(1)
    leads = Counter(
        planner.rank(shelf, shelf.policy, shelf.weights, FEATURES, chance.getrandbits(32)).number for _ in range(20_000)
    )
    assert len(leads) == 100
    assert max(leads.values()) < 290
    assert min(leads.values()) > 120


def test_weight_of_zero_comes_last() -> None:
    """Such a deployment is there for the day the others are gone."""
    model = make_model("m", make_deployment("m@a", weight=0), make_deployment("m@z", weight=0.01))
    shelf = Shelf(world(model))
    for seed in range(200):
        assert names(Planner(Script({})).rank(shelf, shelf.policy, {}, FEATURES, seed)) == ["m@z", "m@a"]


# --- sessions ---------------------------------------------------------------------------------


def test_session_stays_home_and_comes_back() -> None:
    """A session leads to one place, to another one while that is away, and back."""
    shelf = Shelf(world(make_model("m", *(make_deployment(f"m@{index}") for index in range(30)))))
    feed = Script({})
    planner = Planner(feed)
    for session in map(str, range(50)):
        features = structs.replace(FEATURES, session=session)

        def home(features: object = features) -> str:
            leads = {
                names(planner.rank(shelf, shelf.policy, DEFAULT_WEIGHTS, features, seed))[0]  # type: ignore[arg-type]
                for seed in range(4)
            }
            (one,) = leads
            return one

        first = home()
        feed.put(first, DeploymentHealth(available=False))
        second = home()
        assert second != first
        feed.put(first, DeploymentHealth())
        assert home() == first


def test_session_that_many_others_followed_is_remembered_by_arithmetic() -> None:
    """Homes are forgotten when there are too many sessions, and found again to be the same."""
    shelf = Shelf(world(make_model("m", *(make_deployment(f"m@{index}") for index in range(5)))))
    planner = Planner(Script({}))

    def home(session: str) -> int:
        features = structs.replace(FEATURES, session=session)
        return planner.rank(shelf, shelf.policy, DEFAULT_WEIGHTS, features, 1).number

    first = [home(str(index)) for index in range(5000)]
    assert [home(str(index)) for index in range(5000)] == first


# --- plans ------------------------------------------------------------------------------------


def test_planner_drops_its_plans_with_the_snapshot() -> None:
    """A new registry snapshot counts from the next request on."""
    planner = Planner(Script({}))
    for name in ("m@a", "m@b"):
        shelf = Shelf(world(make_model("m", make_deployment(name))))
        assert names(planner.rank(shelf, shelf.policy, DEFAULT_WEIGHTS, FEATURES, 1)) == [name]


def test_planner_is_bounded() -> None:
    """However many kinds of requests there are, only so many plans are kept, and the answers stay the same."""
    models = [make_model(f"m{index}", make_deployment(f"m{index}@b")) for index in range(20)]
    shelf = Shelf(world(*models))
    planner = Planner(Script({}), kinds=3)
    for _ in range(2):
        for model in models:
            assert names(planner.rank(shelf, model, DEFAULT_WEIGHTS, FEATURES, 1)) == [f"{model.id}@b"]
    assert len(planner._kinds) <= 3


def test_planner_shares_what_comes_to_the_same() -> None:
    """Requests of another length or need that every candidate rates alike follow health together."""
    model = make_model("m", *(make_deployment(f"m@{index}", price=CHEAP) for index in range(3)))
    shelf = Shelf(world(model))
    planner = Planner(Script({}))
    kept = {
        planner.rank(shelf, model, DEFAULT_WEIGHTS, structs.replace(FEATURES, **change), 1).plan.pools[0]  # type: ignore[arg-type]
        for change in ({}, {"max_tokens": 9}, {"needs": frozenset({"chat", "tools"})}, {"privacy": "any"})
    }
    assert len(kept) == 1


def test_ranking_goes_through_thousands_quickly() -> None:
    """A whole ranking of many that fail takes no time that grows with their square."""
    model = make_model("m", *(make_deployment(f"m@{index}") for index in range(5000)))
    shelf = Shelf(world(model))
    ranked = names(Planner(Script({})).rank(shelf, model, DEFAULT_WEIGHTS, FEATURES, 7))
    assert len(set(ranked)) == len(ranked) == 5000


def test_ranking_counts_a_model_that_is_its_own_fallback_once() -> None:
    """A deployment that is named again does not come again."""
    model = make_model("m", make_deployment("m@a"), make_deployment("m@b"), fallbacks=("m", "n", "gone"))
    shelf = Shelf(world(model, make_model("n", make_deployment("n@a"))))
    shelf.models = {"m": model, "n": shelf.models["n"]}
    ranked = names(Planner(Script({})).rank(shelf, model, DEFAULT_WEIGHTS, FEATURES, 1))
    assert sorted(ranked[:2]) == ["m@a", "m@b"]
    assert ranked[2:] == ["n@a"]


def test_ranking_respects_a_limit_of_requests_at_a_time() -> None:
    """A full deployment is back as soon as one request has left it."""
    deployment = make_deployment("m@a", limits=Limits(max_concurrency=1))
    model: Model = make_model("m", deployment)
    board = HealthBoard()
    shelf, planner = Shelf(world(model)), Planner(board)
    for _ in range(3):
        assert planner.rank(shelf, model, DEFAULT_WEIGHTS, FEATURES, 1)
        ticket = board.begin(deployment)
        assert not planner.rank(shelf, model, DEFAULT_WEIGHTS, FEATURES, 1)
        board.end(deployment, ticket)
