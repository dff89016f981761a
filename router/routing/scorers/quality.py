"""Quality: what the registry says of the model."""

from __future__ import annotations

from collections.abc import Sequence

from router.interfaces import Health
from router.types import Candidate, Features

__all__ = ["score_quality"]

UNKNOWN = 0.3
"""An unrated model ranks below every model that somebody rated well."""


def score_quality(_features: Features, candidates: Sequence[Candidate], _health: Health) -> list[float]:
    """Return each model's overall quality, in [0, 1]."""
    return [min(1.0, max(0.0, candidate.model.quality.get("overall", UNKNOWN))) for candidate in candidates]
