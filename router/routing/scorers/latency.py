"""Latency: the measured time to the first token, and how busy a deployment is."""

from __future__ import annotations

from collections.abc import Sequence

from router.interfaces import Health
from router.types import Candidate, DeploymentHealth, Features

__all__ = ["HALF_AT_MS", "LEAST_WEIGHT", "UNTRIED_MS", "score_latency"]

HALF_AT_MS = 1000.0
"""A first token after this long scores one half."""
UNTRIED_MS = 500.0
"""An untried deployment is taken for a quick one, so that it is tried."""
LEAST_WEIGHT = 1e-9
"""What a weight of zero counts as."""
_UNKNOWN = DeploymentHealth()


def score_latency(_features: Features, candidates: Sequence[Candidate], health: Health) -> list[float]:
    """Return 1 / (1 + expected wait / 1 s) for each candidate, in [0, 1].

    The expected wait is the time to the first token, once for this request and once more for
    each request that the deployment already works on, less the part that it fails.
    """
    scores = []
    for candidate in candidates:
        state = health.get(candidate.deployment.id, _UNKNOWN)
        first = UNTRIED_MS if state.first_token_ms is None else state.first_token_ms
        wait = first * (1 + state.in_flight / max(candidate.deployment.weight, LEAST_WEIGHT))
        scores.append((1.0 - state.failure_rate) / (1.0 + wait / HALF_AT_MS))
    return scores
