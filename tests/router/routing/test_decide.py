"""decide(): total, repeatable, indifferent to the order of its inputs, and true to every constraint."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.routing.decide import no_candidate
from router.routing.estimates import estimate_cost
from router.types import Backend, Constraints, Decision, DeploymentHealth, Model, Rejection, Wishes
from shared.errors import ContextLengthExceeded, NoCandidate, Overloaded
from tests.router.routing.worlds import CHEAP, FEATURES, World, world, worlds
from tests.support.nouns import make_backend, make_deployment, make_model

REACH = {"local": {"local"}, "cluster": {"local", "cluster"}, "any": {"local", "cluster", "external"}}


def order(decision: Decision) -> list[str]:
    """The ids of the ranking."""
    return [candidate.deployment.id for candidate in decision.ranking]


@given(worlds)
def test_decide_places_every_deployment_exactly_once(one: World) -> None:
    """Each deployment is ranked or rejected, never both, never twice, never lost."""
    decision = one.decide()
    placed = order(decision) + [rejection.deployment for rejection in decision.rejections]
    assert sorted(placed) == sorted(deployment.id for deployment in one.deployments())


@given(worlds)
def test_decide_is_the_same_for_the_same_inputs(one: World) -> None:
    """A decision can be replayed from what it holds."""
    decision = one.decide()
    assert one.decide() == decision
    assert (decision.id, decision.asked, decision.policy, decision.catalog_version) == ("dec_1", "m", None, 7)
    assert (decision.features, decision.seed) == (one.features, one.seed)


@given(worlds, st.randoms(use_true_random=True))
def test_decide_does_not_depend_on_the_order_of_its_inputs(one: World, chance: Random) -> None:
    """Models, deployments, health and weights may come in any order."""

    def shuffled(model: Model) -> Model:
        return replace(model, deployments=tuple(chance.sample(model.deployments, len(model.deployments))))

    other = one.decide(
        models=tuple(shuffled(model) for model in chance.sample(one.models, len(one.models))),
        fallbacks=tuple(shuffled(model) for model in one.fallbacks),
        health=dict(chance.sample(list(one.health.items()), len(one.health))),
        weights=dict(chance.sample(list(one.weights.items()), len(one.weights))),
    )
    decision = one.decide()
    assert order(other) == order(decision)
    assert [candidate.score for candidate in other.ranking] == [candidate.score for candidate in decision.ranking]
    assert other.rejections == decision.rejections


@given(worlds)
def test_decide_ranks_models_before_fallbacks_and_by_priority(one: World) -> None:
    """The models' deployments come first, then each fallback's in turn, each group by priority."""
    groups = [{model.id for model in one.models}, *({model.id} for model in one.fallbacks)]
    places = []
    for candidate in one.decide().ranking:
        (place,) = (index for index, group in enumerate(groups) if candidate.model.id in group)
        places.append((place, candidate.deployment.priority))
    assert places == sorted(places)


@given(worlds)
def test_decide_keeps_every_promise_of_the_request(one: World) -> None:
    """No candidate is outside the privacy, over or without a known cost, away, full, too slow or too small."""
    wanted = one.features
    for candidate in one.decide().ranking:
        deployment, model = candidate.deployment, candidate.model
        health = one.health.get(deployment.id, DeploymentHealth())
        assert deployment.backend.tier in REACH[wanted.privacy]
        assert health.available
        assert not deployment.backend.stale
        assert deployment.limits.max_concurrency is None or health.in_flight < deployment.limits.max_concurrency
        assert model.context_length is None or wanted.prompt_tokens_least < model.context_length
        assert not model.capabilities or wanted.needs <= model.capabilities
        if wanted.max_cost_usd is not None:
            assert candidate.estimated_cost_usd is not None
            assert candidate.estimated_cost_usd <= wanted.max_cost_usd
        if wanted.first_token_ms is not None and health.first_token_ms is not None:
            assert health.first_token_ms <= wanted.first_token_ms
        assert candidate.estimated_cost_usd == estimate_cost(wanted, deployment)


@given(worlds)
def test_decide_scores_within_bounds(one: World) -> None:
    """Every score, and their mean, is in [0, 1]; only scorers with a positive weight are asked."""
    asked = {name for name, weight in one.weights.items() if weight > 0} - {"unknown"}
    for candidate in one.decide().ranking:
        assert set(candidate.scores) == asked
        assert all(0 <= score <= 1 for score in candidate.scores.values())
        assert 0 <= candidate.score <= 1 + 1e-12


@given(worlds)
def test_decide_gives_a_reason_for_every_rejection(one: World) -> None:
    """A rejection names its filter and says why in words."""
    for rejection in one.decide().rejections:
        assert rejection.filter in {"privacy", "capability", "context", "health", "concurrency", "cost", "latency"}
        assert rejection.reason


@given(worlds)
def test_decide_never_widens_with_stricter_privacy(one: World) -> None:
    """Whoever serves a stricter request serves a looser one."""
    strict = set(order(one.decide(features=structs.replace(one.features, privacy="local"))))
    middle = set(order(one.decide(features=structs.replace(one.features, privacy="cluster"))))
    loose = set(order(one.decide(features=structs.replace(one.features, privacy="any"))))
    assert strict <= middle <= loose


def test_decide_counts_a_model_that_is_its_own_fallback_once() -> None:
    """A deployment that is named again is not tried again."""
    model = make_model("m", make_deployment("m@a"), make_deployment("m@b"))
    assert sorted(order(world(model, fallbacks=(model, model)).decide())) == ["m@a", "m@b"]


def test_decide_prefers_what_the_weights_count() -> None:
    """With one scorer counted, its favourite leads under any seed."""
    good = make_model("good", make_deployment("good@b", price=CHEAP), quality={"overall": 0.9})
    free = make_model("free", make_deployment("free@b", price=replace(CHEAP, input=Decimal(0), output=Decimal(0))))
    for seed in range(20):
        assert order(world(good, free, weights={"quality": 1}, seed=seed).decide())[0] == "good@b"
        assert order(world(good, free, weights={"cost": 1}, seed=seed).decide())[0] == "free@b"


@pytest.mark.parametrize("scale", [1.0, 0.001, 1000.0])
def test_decide_balances_equals_by_weight(scale: float) -> None:
    """Over four thousand seeds each of three equals leads in proportion to its weight, whatever the scale."""
    shares = {"m@a": 1.0, "m@b": 2.0, "m@c": 5.0}
    model = make_model("m", *(make_deployment(name, weight=share * scale) for name, share in shares.items()))
    seeds = 4000
    leads = Counter(order(world(model, seed=seed).decide())[0] for seed in range(seeds))
    for name, share in shares.items():
        assert leads[name] / seeds == pytest.approx(share / 8, abs=0.03)


def test_decide_ranks_a_weight_of_zero_last() -> None:
    """Such a deployment is there for the day the others are gone."""
    model = make_model("m", make_deployment("m@a", weight=0), make_deployment("m@z", weight=0.01))
    busy = {"m@a": DeploymentHealth(in_flight=3, first_token_ms=10)}
    for seed in range(50):
        assert order(world(model, seed=seed, health=busy, weights={"latency": 1}).decide())[-1] == "m@a"
        assert order(world(model, seed=seed).decide())[-1] == "m@a"


def test_decide_keeps_a_session_where_it_is() -> None:
    """With affinity counted, a session leads to one place under any seed, and losing another place moves nothing."""
    names = [f"m@{letter}" for letter in "abcdefgh"]
    model = make_model("m", *(make_deployment(name) for name in names))
    homes = {}
    for session in map(str, range(40)):
        at = structs.replace(FEATURES, session=session)
        leads = {order(world(model, features=at, weights={"affinity": 1}, seed=seed).decide())[0] for seed in range(5)}
        assert len(leads) == 1
        (homes[session],) = leads
    assert len(set(homes.values())) > 4
    for session, home in homes.items():
        gone = next(name for name in names if name != home)
        away = {gone: DeploymentHealth(available=False)}
        at = structs.replace(FEATURES, session=session)
        assert order(world(model, features=at, weights={"affinity": 1}, health=away).decide())[0] == home


# --- no_candidate -----------------------------------------------------------------------------


def refused(*filters: str) -> Decision:
    """A decision that rejected a deployment for each of the filters."""
    rejections = tuple(Rejection(f"m@b{index}", name, f"reason {index}") for index, name in enumerate(filters))
    return structs.replace(world().decide(), rejections=rejections)


@pytest.mark.parametrize(
    ("filters", "kind", "status", "code"),
    [
        ((), NoCandidate, 503, "no_candidate"),
        (("capability",), NoCandidate, 400, "no_candidate"),
        (("capability", "capability"), NoCandidate, 400, "no_candidate"),
        (("context",), ContextLengthExceeded, 400, "context_length_exceeded"),
        (("context", "context"), ContextLengthExceeded, 400, "context_length_exceeded"),
        (("capability", "context"), NoCandidate, 400, "no_candidate"),
        (("capability", "health"), NoCandidate, 503, "no_candidate"),
        (("context", "health"), NoCandidate, 503, "no_candidate"),
        (("privacy",), NoCandidate, 503, "no_candidate"),
        (("cost", "latency"), NoCandidate, 503, "no_candidate"),
        (("concurrency",), Overloaded, 503, "overloaded"),
        (("concurrency", "health"), Overloaded, 503, "overloaded"),
    ],
    ids=str,
)
def test_no_candidate_blames_the_request_only_where_it_is_to_blame(
    filters: tuple[str, ...], kind: type[Exception], status: int, code: str
) -> None:
    """What no deployment can do is a 400, what none may do now is a 503; the reasons are listed."""
    error = no_candidate(refused(*filters))
    assert (type(error), error.status, error.code) == (kind, status, code)
    for index, _ in enumerate(filters):
        assert f"m@b{index}: reason {index}" in error.message


def test_no_candidate_lists_no_endless_reasons() -> None:
    """A large fleet does not make a large message."""
    error = no_candidate(refused(*["health"] * 500))
    assert error.message.count("reason") == 10


@given(worlds)
def test_no_candidate_makes_an_error_of_any_decision(one: World) -> None:
    """Whatever was rejected, the error is in OpenAI's shape."""
    decision = one.decide()
    error = no_candidate(decision)
    assert error.status in (400, 503)
    assert error.body()["error"]["message"]


def test_noun_defaults_ask_for_nothing() -> None:
    """A request without wishes under a policy without constraints may go anywhere."""
    assert (Wishes().privacy, Constraints().privacy) == ("any", "any")
    backend: Backend = make_backend(tier="external")
    assert order(world(make_model("m", make_deployment("m@b", backend))).decide()) == ["m@b"]
