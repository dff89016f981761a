"""decide(): filters, then scorers, then a ranking of everybody; pure and the same for the same inputs.

It looks at every deployment and says everything: who may answer, who may not and why. Requests are
routed by `router.routing.plan`, which comes to the same ranking without looking at everybody.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from router.interfaces import Filter, Health
from router.routing.estimates import estimate_cost
from router.routing.filters import LIVE_FILTERS, STATIC_FILTERS
from router.routing.scorers import LIVE_SCORERS, STATIC_SCORERS
from router.routing.weights import DEFAULT_WEIGHTS, level_of, shares_of
from router.types import Candidate, Decision, DeploymentHealth, Features, Model, Rejection
from shared.errors import ContextLengthExceeded, NoCandidate, Overloaded, ServiceError

__all__ = ["DEFAULT_WEIGHTS", "decide", "no_candidate"]

_UNTRIED = DeploymentHealth()


def decide(
    *,
    id: str,  # noqa: A002 - the decision's own name for it
    asked: str,
    policy: str | None,
    models: Sequence[Model],
    fallbacks: Sequence[Model],
    features: Features,
    health: Health,
    weights: Mapping[str, float],
    seed: int,
    catalog_version: int,
) -> Decision:
    """Return who may answer, in order, and who may not and why.

    The order is: models before their fallbacks (in the order given), lower `priority` first,
    higher score first; equals are shuffled by weight under `seed` (Efraimidis and Spirakis,
    2006), so the result depends on no order of the inputs but that of the fallbacks.

    Args:
        id: The decision's id.
        asked: The model or policy that the caller named.
        policy: The policy in force, if any.
        models: The models that may answer.
        fallbacks: Models to try after them.
        features: What is known of the request.
        health: What is known of the deployments.
        weights: What each scorer counts; a scorer that is not named counts nothing.
        seed: Makes chance repeatable.
        catalog_version: The registry snapshot that `models` come from.
    """
    ranking: list[Candidate] = []
    rejections: list[Rejection] = []
    seen: set[str] = set()
    shares = shares_of(weights)
    for group in (models, *([model] for model in fallbacks)):
        candidates = []
        for model in group:
            for deployment in model.deployments:
                if deployment.id not in seen:
                    seen.add(deployment.id)
                    cost = estimate_cost(features, deployment)
                    candidates.append(Candidate(model, deployment, estimated_cost_usd=cost))
        candidates = _filter(candidates, STATIC_FILTERS, features, health, rejections)
        ids = [candidate.deployment.id for candidate in candidates]
        fixed = {
            name: dict(zip(ids, scorer(features, candidates, health), strict=True))
            for name, scorer in STATIC_SCORERS.items()
            if name in shares
        }
        candidates = _filter(candidates, LIVE_FILTERS, features, health, rejections)
        ranking += _rank(_score(candidates, fixed, features, health, shares), seed)
    rejections.sort(key=lambda rejection: rejection.deployment)
    return Decision(id, asked, policy, tuple(ranking), tuple(rejections), features, seed, catalog_version)


def _filter(
    candidates: list[Candidate],
    filters: Sequence[tuple[str, Filter]],
    features: Features,
    health: Health,
    rejections: list[Rejection],
) -> list[Candidate]:
    """Return the candidates that pass, and add a rejection for each other one."""
    passed = []
    for candidate in candidates:
        deployment = candidate.deployment
        state = health.get(deployment.id, _UNTRIED)
        for name, reject in filters:
            if reason := reject(features, candidate.model, deployment, state):
                rejections.append(Rejection(deployment.id, name, reason))
                break
        else:
            passed.append(candidate)
    return passed


def _score(
    candidates: list[Candidate],
    fixed: Mapping[str, Mapping[str, float]],
    features: Features,
    health: Health,
    shares: Mapping[str, float],
) -> list[Candidate]:
    """Return the candidates with their scores: the mean of the scorers, weighted."""
    live = {name: scorer(features, candidates, health) for name, scorer in LIVE_SCORERS.items() if name in shares}
    scored = []
    for row, candidate in enumerate(candidates):
        scores = {name: column[candidate.deployment.id] for name, column in fixed.items()}
        scores |= {name: column[row] for name, column in live.items()}
        score = 0.0
        for name, share in shares.items():  # added up in this order everywhere, so that rounding is the same
            score += share * scores[name]
        scored.append(
            Candidate(
                candidate.model,
                candidate.deployment,
                score,
                MappingProxyType(scores),
                candidate.estimated_cost_usd,
            )
        )
    return scored


def _rank(candidates: list[Candidate], seed: int) -> list[Candidate]:
    return sorted(
        candidates,
        key=lambda c: (c.deployment.priority, -level_of(c.score), -_lot(seed, c), c.deployment.id),
    )


def _lot(seed: int, candidate: Candidate) -> float:
    """Return log(u) / weight with u drawn from the seed and the deployment's id.

    It orders as u ** (1 / weight) does, but small weights do not vanish in it.
    """
    digest = hashlib.blake2b(f"{seed}\0{candidate.deployment.id}".encode(), digest_size=8).digest()
    u = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return math.log(u) / max(candidate.deployment.weight, 1e-9)


def no_candidate(decision: Decision) -> ServiceError:
    """Return the error for a decision without candidates; it lists every rejection."""
    kinds = {rejection.filter for rejection in decision.rejections}
    reasons = "; ".join(f"{r.deployment}: {r.reason}" for r in decision.rejections[:10])
    if kinds == {"context"}:
        return ContextLengthExceeded(f"The prompt is too long for {decision.asked!r}: {reasons}.", param="messages")
    if not decision.rejections:
        return NoCandidate(f"No deployment serves {decision.asked!r}.")
    if "concurrency" in kinds:
        return Overloaded(f"Every deployment that could serve {decision.asked!r} is full: {reasons}.", retry_after=1)
    missing = kinds <= {"capability", "context"}
    return NoCandidate(f"No deployment can serve {decision.asked!r}: {reasons}.", missing_capability=missing)
