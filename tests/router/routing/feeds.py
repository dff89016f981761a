"""A health feed that says what a test wants, and a registry snapshot of a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec import Struct

from router.routing.plan import lineup
from router.types import Decision, DeploymentHealth, Features, Model, Policy
from tests.router.routing.worlds import World

__all__ = ["Script", "Shelf", "oracle"]


class _State(Struct):
    """A state that changes in place."""

    id: str
    available: bool = True
    in_flight: int = 0
    first_token_ms: float | None = None
    failure_rate: float = 0.0


class Script:
    """A feed whose log reaches back over its last `reach` changes."""

    def __init__(self, health: Mapping[str, DeploymentHealth], reach: int = 1000) -> None:
        self.health: dict[str, DeploymentHealth] = {}
        self._states: dict[str, _State] = {}
        self._log: list[_State] = []
        self._reach = reach
        for name, state in health.items():
            self.put(name, state)

    def put(self, name: str, health: DeploymentHealth) -> None:
        """Change a deployment's state."""
        self.health[name] = health
        state = self._states.setdefault(name, _State(name))
        state.available, state.in_flight = health.available, health.in_flight
        state.first_token_ms, state.failure_rate = health.first_token_ms, health.failure_rate
        self._log.append(state)

    def news(self, since: int, most: int) -> tuple[int, Sequence[_State] | None]:
        """What came after."""
        count = len(self._log)
        return count, self._log[since:] if since >= 0 and count - since <= min(most, self._reach) else None

    def state(self, deployment: str) -> _State | None:
        """The state now."""
        return self._states.get(deployment)


class Shelf:
    """A snapshot in which one policy means a world's models, and the first of these has its fallbacks."""

    def __init__(self, one: World) -> None:
        models = list(one.models)
        if models:
            models[0] = replace(models[0], fallbacks=tuple(model.id for model in one.fallbacks))
        self._members = tuple(models)
        self.models: Mapping[str, Model] = {model.id: model for model in (*models, *one.fallbacks)}
        self.policy = Policy("p")
        self.weights = one.weights

    def members(self, _policy: Policy) -> tuple[Model, ...]:
        """The models of the policy."""
        return self._members


def oracle(
    shelf: Shelf, features: Features, health: Mapping[str, DeploymentHealth], seed: int, *, fallback: bool = True
) -> Decision:
    """What decide() says of a shelf."""
    models, fallbacks = lineup(shelf, shelf.policy, fallback)
    return World(models, tuple(fallbacks), features, dict(health), shelf.weights, seed).decide()
