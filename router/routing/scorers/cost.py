"""Cost: free is 1, the most expensive candidate and those of unknown price are 0."""

from __future__ import annotations

from collections.abc import Sequence

from router.interfaces import Health
from router.types import Candidate, Features

__all__ = ["score_cost"]


def score_cost(_features: Features, candidates: Sequence[Candidate], _health: Health) -> list[float]:
    """Return how cheap each candidate is against the most expensive one, in [0, 1]."""
    known = [c.estimated_cost_usd for c in candidates if c.estimated_cost_usd is not None]
    most = max(known, default=None)
    scores = []
    for candidate in candidates:
        expected = candidate.estimated_cost_usd
        if expected is None:
            scores.append(0.0)
        elif not most:
            scores.append(1.0)
        else:
            scores.append(1.0 - float(expected / most) if len(known) > 1 or expected == 0 else 0.5)
    return scores
