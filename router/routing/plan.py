"""Planner.rank(): the ranking of a request, at the cost of a few candidates rather than of all.

What is the same for many requests is worked out once for each kind of request and kept: a plan. Its
pools follow the deployments' health change by change. `router.routing.decide` says what a ranking
is; a plan's ranking differs from it only in the lots drawn among equals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol
from weakref import WeakValueDictionary

from msgspec import Struct

from router.interfaces import HealthFeed
from router.routing.estimates import proportional, token_mix
from router.routing.filters import STATIC_FILTERS
from router.routing.lottery import Chance
from router.routing.pool import Pool
from router.routing.scorers import STATIC_SCORERS
from router.routing.weights import shares_of
from router.types import Candidate, DeploymentHealth, Features, Model, Policy

__all__ = ["Planner", "Ranking", "Snapshot", "lineup"]

_KINDS = 512
_PLACES = 400_000
"""Candidates in all pools together; about 150 bytes each."""
_UNTRIED = DeploymentHealth()
_NOBODY: Mapping[str, DeploymentHealth] = {}


class Snapshot(Protocol):
    """A state of the registry; another state is another object."""

    @property
    def models(self) -> Mapping[str, Model]:
        """Model by id."""
        ...

    def members(self, policy: Policy) -> tuple[Model, ...]:
        """Return the models that a policy may choose from."""
        ...


def lineup(snapshot: Snapshot, target: Model | Policy, fallback: bool) -> tuple[tuple[Model, ...], list[Model]]:
    """Return the models that may answer for a model or a policy, and those to try after them."""
    models = (target,) if isinstance(target, Model) else snapshot.members(target)
    names = dict.fromkeys(name for model in models for name in model.fallbacks) if fallback else {}
    return models, [snapshot.models[name] for name in names if name in snapshot.models]


class _Plan:
    """The pools for one kind of request: that of the models, then one for each fallback."""

    __slots__ = ("groups", "head", "pools", "shares")

    head: Pool
    """The first of the pools."""

    def __init__(self, groups: list[Sequence[Model]], shares: Mapping[str, float]) -> None:
        self.groups = groups
        self.shares = shares
        self.pools: list[Pool] = []
        """As many as were needed so far."""


class _Kind:
    """What requests have in common that are for the same models, with the same weights and needs.

    Args:
        target: The model or policy; it and the weights are known by identity, so they are held.
        weights: What each scorer counts.
        features: Of one such request.
        fallback: Whether the fallbacks may answer.
        groups: The models, then each fallback.
    """

    __slots__ = ("fallback", "groups", "mixed", "needs", "plans", "privacy", "several", "shares", "target", "weights")

    def __init__(
        self,
        target: object,
        weights: Mapping[str, float],
        features: Features,
        fallback: bool,
        groups: list[Sequence[Model]],
    ) -> None:
        self.target = target
        self.weights = weights
        self.needs = features.needs
        self.privacy = features.privacy
        self.several = features.choices > 1
        self.fallback = fallback
        self.groups = groups
        self.shares = shares_of(weights)
        prices = (deployment.price for group in groups for model in group for deployment in model.deployments)
        self.mixed = "cost" in self.shares and not proportional(prices)
        """Whether who is cheaper depends on the token mix."""
        self.plans: dict[int, _Plan] = {}
        """Token mix to plan; where the mix changes nothing, there is one."""


class Planner:
    """Ranks candidates for requests and keeps what they have in common.

    Args:
        feed: What is known of the deployments.
        kinds: How many kinds of requests to remember; the oldest is forgotten.
    """

    def __init__(self, feed: HealthFeed, kinds: int = _KINDS) -> None:
        self._feed = feed
        self._most = kinds
        self._snapshot: Snapshot | None = None
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._last: _Kind | None = None
        """That of the last request, which is often that of the next."""
        self._candidates: dict[int, Candidate] = {}
        """Identity of a deployment to its candidate, for all pools of a snapshot."""
        self._pools: WeakValueDictionary[int, Pool] = WeakValueDictionary()
        """The pools in use by a hash of what they are made from: kinds of requests often come to the same."""

    def rank(
        self,
        snapshot: Snapshot,
        target: Model | Policy,
        weights: Mapping[str, float],
        features: Features,
        seed: int,
        fallback: bool = True,
    ) -> Ranking:
        """Return who may answer, in order; it is false where nobody may.

        Args:
            snapshot: The registry. A new object drops every plan.
            target: The model or policy to choose for; the snapshot's own object.
            weights: What each scorer counts; the same object for the same weights.
            features: What is known of the request.
            seed: Makes chance repeatable: the same seed in the same state gives the same ranking.
            fallback: Whether the models' fallbacks may answer too.
        """
        if snapshot is not self._snapshot:
            self._forget(snapshot)
        kind = self._last
        if kind is None or not (
            kind.target is target
            and kind.weights is weights
            and kind.needs == features.needs
            and kind.privacy == features.privacy
            and kind.several == (features.choices > 1)
            and kind.fallback == fallback
        ):
            kind = self._last = self._kind(snapshot, target, weights, features, fallback)
        plan = kind.plans.get(token_mix(features) if kind.mixed else 0)
        if plan is None:
            plan = self._plan(kind, features)
        # What follows is `pool()` for the first group, which nearly always has somebody.
        pool = plan.head
        revision, changed = self._feed.news(pool.revision, pool.size)
        if changed:
            pool.follow(revision, changed)
        elif changed is None:
            pool.refresh(revision, self._feed)
        number = pool.first(features, seed)
        if number >= 0:
            return Ranking(pool.candidates[number], number, 0, self, plan, features, seed)
        for group in range(1, len(plan.groups)):
            pool = self.pool(plan, group, features)
            number = pool.first(features, seed)
            if number >= 0:
                return Ranking(pool.candidates[number], number, group, self, plan, features, seed)
        return Ranking(None, -1, 0, self, plan, features, seed)

    def pool(self, plan: _Plan, group: int, features: Features) -> Pool:
        """Return one of a plan's pools as things are now."""
        while group >= len(plan.pools):
            plan.pools.append(self._build(plan, features))
        pool = plan.pools[group]
        revision, changed = self._feed.news(pool.revision, pool.size)
        if changed:
            pool.follow(revision, changed)
        elif changed is None:
            pool.refresh(revision, self._feed)
        return pool

    def _forget(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._kinds.clear()
        self._last = None
        self._candidates.clear()
        self._pools = WeakValueDictionary()

    def _kind(
        self,
        snapshot: Snapshot,
        target: Model | Policy,
        weights: Mapping[str, float],
        features: Features,
        fallback: bool,
    ) -> _Kind:
        key = (id(target), id(weights), features.needs, features.privacy, features.choices > 1, fallback)
        kinds = self._kinds
        kind = kinds.get(key)
        if kind is None:
            while len(kinds) >= self._most:
                del kinds[next(iter(kinds))]
            models, fallbacks = lineup(snapshot, target, fallback)
            groups = [models, *([model] for model in fallbacks)]
            kind = kinds[key] = _Kind(target, weights, features, fallback, groups)
        return kind

    def _plan(self, kind: _Kind, features: Features) -> _Plan:
        plan = _Plan(kind.groups, kind.shares)
        plan.head = self.pool(plan, 0, features)
        kinds = self._kinds
        while len(kinds) > 1 and sum(pool.size for pool in self._pools.values()) > _PLACES:
            del kinds[next(iter(kinds))]
        kind.plans[token_mix(features) if kind.mixed else 0] = plan
        return plan

    def _build(self, plan: _Plan, features: Features) -> Pool:
        """Return the next pool of a plan: what its features have in common decides, not this very request."""
        built = len(plan.pools)
        seen = {d.id for group in plan.groups[:built] for model in group for d in model.deployments}
        candidates = []
        for model in plan.groups[built]:
            for deployment in model.deployments:
                if deployment.id in seen:
                    continue
                seen.add(deployment.id)
                if any(reject(features, model, deployment, _UNTRIED) for _, reject in STATIC_FILTERS):
                    continue
                candidate = self._candidates.get(id(deployment))
                if candidate is None or candidate.model is not model:
                    candidate = self._candidates[id(deployment)] = Candidate(model, deployment)
                candidates.append(candidate)
        candidates.sort(key=lambda candidate: candidate.deployment.id)
        bases = [0.0] * len(candidates)
        for name, share in plan.shares.items():
            if name in STATIC_SCORERS:
                column = STATIC_SCORERS[name](features, candidates, _NOBODY)
                bases = [base + share * score for base, score in zip(bases, column, strict=True)]
        pool = Pool(candidates, bases, plan.shares)
        known = self._pools.setdefault(hash((pool.bases, *map(id, candidates))), pool)
        return known if known.same(pool) else pool


class Ranking(Struct, eq=False, gc=False):
    """Who may answer a request, in order: the first is there at once, the others when they are asked for.

    Whoever comes after the first is chosen by what is known at that time, and comes once.
    """

    first: Candidate | None
    number: int
    group: int
    planner: Planner
    plan: _Plan
    features: Features
    seed: int

    def __bool__(self) -> bool:
        return self.first is not None

    def __iter__(self) -> Iterator[Candidate]:
        return iter(()) if self.first is None else chain((self.first,), _Rest(self))


class _Rest(Struct, eq=False, gc=False):
    """Who comes after the first of a ranking; worked out only where somebody asks."""

    ranking: Ranking

    def __iter__(self) -> Iterator[Candidate]:
        ranking = self.ranking
        chance = Chance(~ranking.seed)
        taken = {ranking.number}
        for group in range(ranking.group, len(ranking.plan.groups)):
            yield from self._walk(group, taken, chance)
            taken = set()

    def _walk(self, group: int, taken: set[int], chance: Chance) -> Iterator[Candidate]:
        """Yield the candidates of a pool that are not taken, as long as there are any."""
        planner, plan, features = self.ranking.planner, self.ranking.plan, self.ranking.features
        below: int | None = None
        while True:
            pool = planner.pool(plan, group, features)
            revision = pool.revision
            numbers, step = pool.best(features, taken, chance, below)
            if not numbers:
                return
            for number in numbers:
                taken.add(number)
                yield pool.candidates[number]
                if planner.pool(plan, group, features).revision != revision:
                    below = None
                    break
            else:
                below = below if step is None else step
