"""Worlds that routing decides about: models, deployments, health and requests, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from router.routing.decide import decide
from router.types import (
    Decision,
    Deployment,
    DeploymentHealth,
    Features,
    Limits,
    Model,
    Price,
)
from tests.support.nouns import make_backend, make_deployment

__all__ = [
    "CHEAP",
    "FEATURES",
    "World",
    "crowds",
    "draw_crowd_features",
    "draw_features",
    "draw_health",
    "world",
    "worlds",
]

FEATURES = Features(needs=frozenset({"chat"}), prompt_tokens=100, prompt_tokens_least=25, max_tokens=None, stream=False)
"""A small plain request."""

_CAPABILITIES = ("chat", "chat", "chat", "tools", "vision", "json_schema", "logprobs", "embeddings")
_TIERS = ("local", "cluster", "external")


def _maybe(chance: Random, value: Any, odds: float = 0.6) -> Any:
    return value if chance.random() < odds else None


def _money(chance: Random, most: int) -> Decimal:
    return Decimal(chance.choice((0, chance.randint(0, most)))) / 10_000


def draw_features(chance: Random) -> Features:
    """Any request."""
    return Features(
        needs=frozenset({"chat", *chance.sample(_CAPABILITIES[:-1], chance.choice((0, 0, 0, 1, 2)))}),
        prompt_tokens=chance.randint(0, 5000),
        prompt_tokens_least=chance.choice((0, chance.randint(0, 1500))),
        max_tokens=_maybe(chance, chance.randint(1, 5000)),
        stream=chance.random() < 0.5,
        choices=chance.choice((1, 1, 1, 1, 1, 2)),
        privacy=chance.choice(("local", "cluster", "any", "any", "any", "any")),
        max_cost_usd=_maybe(chance, _money(chance, 20_000), 0.25),
        first_token_ms=_maybe(chance, chance.randint(1, 100_000), 0.3),
        session=chance.choice((None, "s1", "s2")),
    )


def _model(chance: Random, name: str) -> Model:
    deployments = tuple(_deployment(chance, name, index) for index in range(chance.randint(0, 4)))
    return Model(
        name,
        deployments,
        context_length=_maybe(chance, chance.choice((1000, 8000))),
        capabilities=frozenset(chance.sample(_CAPABILITIES, chance.choice((0, 0, 3, 6, 8)))),
        quality={name: chance.random() for name in ("overall", "code") if chance.random() < 0.5},
    )


def _deployment(chance: Random, model: str, index: int) -> Deployment:
    dialect = chance.choice(("openai", "openai", "local_agent"))
    backend = make_backend("b", tier=chance.choice(_TIERS), dialect=dialect, stale=chance.random() < 0.1)
    return Deployment(
        id=f"{model}@b/{index}",
        model=model,
        backend=backend,
        upstream_model="up",
        price=Price(*(_maybe(chance, _money(chance, 1_000_000), 0.9) for _ in range(3))),
        limits=Limits(max_concurrency=_maybe(chance, chance.randint(0, 9), 0.4)),
        weight=chance.choice((0.0, 1.0, 1.0, chance.uniform(0, 10))),
        priority=chance.choice((-1, 0, 0, 0, 1)),
    )


def draw_health(chance: Random) -> DeploymentHealth:
    """Any state of a deployment."""
    return DeploymentHealth(
        available=chance.random() < 0.8,
        reason=chance.choice(("", "breaker open")),
        in_flight=chance.randint(0, 5),
        first_token_ms=_maybe(chance, chance.choice((0.0, chance.uniform(0, 1e5)))),
        failure_rate=chance.choice((0.0, 1.0, chance.random())),
    )


def _world(seed: int) -> World:
    chance = Random(seed)
    models = [_model(chance, f"m{index}") for index in range(chance.randint(0, 5))]
    border = chance.randint(0, len(models))
    ids = [deployment.id for model in models for deployment in model.deployments]
    scorers = chance.sample(("quality", "cost", "latency", "affinity", "unknown"), chance.randint(0, 5))
    return World(
        models=tuple(models[:border]),
        fallbacks=tuple(models[border:]),
        features=draw_features(chance),
        health={name: draw_health(chance) for name in ids if chance.random() < 0.7},
        weights={name: chance.choice((-1.0, 0.0, 0.1, 0.3, chance.uniform(0, 5))) for name in scorers},
        seed=chance.getrandbits(32),
    )


@dataclass(frozen=True)
class World:
    """All that a decision depends on."""

    models: tuple[Model, ...]
    fallbacks: tuple[Model, ...]
    features: Features
    health: dict[str, DeploymentHealth]
    weights: dict[str, float]
    seed: int

    def decide(self, **changes: Any) -> Decision:
        """The decision, in a world that differs by `changes`."""
        world = replace(self, **changes)
        return decide(
            id="dec_1",
            asked="m",
            policy=None,
            models=world.models,
            fallbacks=world.fallbacks,
            features=world.features,
            health=world.health,
            weights=world.weights,
            seed=world.seed,
            catalog_version=7,
        )

    def deployments(self) -> list[Deployment]:
        """Every deployment there is."""
        return [deployment for model in (*self.models, *self.fallbacks) for deployment in model.deployments]


# One draw for a whole world: it has hundreds of parts, and drawing each alone takes minutes.
worlds = st.integers(0, 2**48).map(_world)
"""Any world."""


def _crowd(seed: int) -> World:
    chance = Random(seed)
    models = []
    for index in range(chance.randint(1, 4)):
        deployments = tuple(
            make_deployment(
                f"m{index}@{place}",
                price=Price(*(_maybe(chance, Decimal(chance.randint(0, 9)), 0.9) for _ in range(3))),
                limits=Limits(max_concurrency=_maybe(chance, 4, 0.1)),
                weight=chance.choice((1.0, 1.0, 0.5, 3.0)),
                priority=chance.choice((0, 0, 0, 1)),
            )
            for place in range(chance.randint(1, 12))
        )
        quality = {"overall": chance.choice((0.5, 0.6, 0.9))}
        models.append(Model(f"m{index}", deployments, quality=quality, context_length=_maybe(chance, 1000, 0.2)))
    border = chance.randint(1, len(models))
    return World(
        models=tuple(models[:border]),
        fallbacks=tuple(models[border:]),
        features=draw_crowd_features(chance),
        health={d.id: draw_health(chance) for model in models for d in model.deployments if chance.random() < 0.5},
        weights={name: chance.uniform(0.1, 1) for name in ("quality", "cost", "latency", "affinity")},
        seed=chance.getrandbits(32),
    )


def draw_crowd_features(chance: Random) -> Features:
    """A request that many may serve."""
    return replace_struct(
        FEATURES,
        prompt_tokens=chance.choice((10, 100, 5000)),
        prompt_tokens_least=chance.choice((0, 0, 2000)),
        max_cost_usd=_maybe(chance, Decimal(chance.randint(1, 9)) / 1000, 0.2),
        first_token_ms=_maybe(chance, chance.randint(1, 50_000), 0.2),
        session=chance.choice((None, "s1", "s2", "s3")),
    )


crowds = st.integers(0, 2**48).map(_crowd)
"""Worlds in which many may serve a request and everything counts."""


def world(*models: Model, fallbacks: tuple[Model, ...] = (), **fields: Any) -> World:
    """A world with these models and little else."""
    given: dict[str, Any] = {"features": FEATURES, "health": {}, "weights": {}, "seed": 1, **fields}
    return World(models, fallbacks, **given)


CHEAP = Price(Decimal(1), None, Decimal(2))
