"""Affinity: a session stays where its prompt is warm.

Multi-probe consistent hashing (Appleton and O'Reilly, 2015): a session makes a few marks on a ring
on which every deployment has one place, and the deployment that is nearest behind a mark is its
home. So one that comes or goes moves only its own sessions, and finding a home takes a few binary
searches rather than a look at every deployment.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence

from router.interfaces import Health
from router.types import Candidate, Features

__all__ = ["Ring", "score_affinity"]

_PROBES = 21
"""With this many marks the fullest of equal deployments gets a twentieth more than its share."""
_WRAP = 2**64 - 1


def score_affinity(features: Features, candidates: Sequence[Candidate], _health: Health) -> list[float]:
    """Return 1 for the deployment that the session belongs to and 0 for the others."""
    if features.session is None or not candidates:
        return [0.0] * len(candidates)
    marks = _marks(features.session)
    distances = [_distance(marks, _place(candidate.deployment.id)) for candidate in candidates]
    least = min(distances)
    return [1.0 if distance == least else 0.0 for distance in distances]


def _place(deployment: str) -> int:
    return int.from_bytes(hashlib.blake2b(deployment.encode(), digest_size=8).digest(), "big")


def _marks(session: str) -> list[int]:
    digest = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=16, person=b"session").digest()
    first, step = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1
    return [(first + step * index) & _WRAP for index in range(_PROBES)]


def _distance(marks: Sequence[int], place: int) -> int:
    return min((place - mark) & _WRAP for mark in marks)


class Ring:
    """Finds the homes of sessions among deployments that do not change.

    Args:
        deployments: Their ids.
    """

    def __init__(self, deployments: Sequence[str]) -> None:
        order = sorted((_place(name), number) for number, name in enumerate(deployments))
        self._places = [place for place, _ in order]
        self._numbers = [number for _, number in order]

    def homes(self, session: str, count: int) -> list[int]:
        """Return the numbers of the deployments nearest to a session, nearest first, at most `count`.

        Takes O(log n + count): the nearest `count` of all are among the nearest `count` of each mark.
        """
        places, size = self._places, len(self._places)
        count = min(count, size)
        nearest: dict[int, int] = {}
        for mark in _marks(session):
            at = bisect_left(places, mark)
            for step in range(at, at + count):
                position = step % size
                distance = (places[position] - mark) & _WRAP
                if distance < nearest.get(position, _WRAP + 1):
                    nearest[position] = distance
        order = sorted(nearest, key=nearest.__getitem__)
        return [self._numbers[position] for position in order[:count]]
