"""Scorers, one file each; a policy weighs them by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from router.interfaces import Scorer
from router.routing.scorers.affinity import score_affinity
from router.routing.scorers.cost import score_cost
from router.routing.scorers.latency import score_latency
from router.routing.scorers.quality import score_quality

__all__ = ["LIVE_SCORERS", "SCORERS", "STATIC_SCORERS"]

STATIC_SCORERS: Mapping[str, Scorer] = MappingProxyType({"quality": score_quality, "cost": score_cost})
"""They look at the registry and the kind of request only, and rate all that the static filters leave."""

LIVE_SCORERS: Mapping[str, Scorer] = MappingProxyType({"latency": score_latency, "affinity": score_affinity})
"""They look at what changes from one request to the next, and rate who may answer now."""

SCORERS: Mapping[str, Scorer] = MappingProxyType({**STATIC_SCORERS, **LIVE_SCORERS})
