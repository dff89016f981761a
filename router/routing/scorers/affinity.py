"""Affinity: a session stays where its prompt is warm.

Rendezvous hashing (Thaler and Ravishankar, 1998): every deployment draws a number from the
session and its own id, and the highest wins, so one that comes or goes moves only its own sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from router.interfaces import Health
from router.types import Candidate, Features

__all__ = ["score_affinity"]


def score_affinity(features: Features, candidates: Sequence[Candidate], _health: Health) -> list[float]:
    """Return 1 for the deployment that the session belongs to and 0 for the others."""
    if features.session is None or not candidates:
        return [0.0] * len(candidates)
    draws = [_draw(features.session, candidate.deployment.id) for candidate in candidates]
    highest = max(draws)
    return [1.0 if draw == highest else 0.0 for draw in draws]


def _draw(session: str, deployment: str) -> bytes:
    return hashlib.blake2b(f"{session}\0{deployment}".encode(), digest_size=8).digest()
