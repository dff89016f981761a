"""Filters: each says why a deployment cannot or must not serve a request, or nothing."""

from __future__ import annotations

from router.interfaces import Filter
from router.routing.estimates import estimate_cost
from router.types import Deployment, DeploymentHealth, Features, Model

__all__ = ["FILTERS", "LIVE_FILTERS", "STATIC_FILTERS"]

_TIER_REACH = {"local": ("local",), "cluster": ("local", "cluster"), "any": ("local", "cluster", "external")}
_AGENT_CAPABILITIES = frozenset({"chat", "completions", "messages", "prefill"})


def privacy(features: Features, _model: Model, deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Keep the request within the tiers that its privacy allows."""
    if deployment.backend.tier in _TIER_REACH[features.privacy]:
        return None
    return f"tier {deployment.backend.tier} is outside privacy {features.privacy}"


def capability(features: Features, model: Model, deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Reject what cannot do something that the request needs; unknown capabilities do not count."""
    known = model.capabilities
    missing = features.needs - known if known else frozenset()
    if deployment.backend.dialect == "local_agent":
        # `/infer` has no fields for more than text in, text out, one choice.
        missing |= features.needs - _AGENT_CAPABILITIES
        if features.choices > 1:
            return "an agent gives one choice (n = 1)"
    return f"lacks {', '.join(sorted(missing))}" if missing else None


def context(features: Features, model: Model, _deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Reject a prompt that is certainly too long; what is only probably too long may try."""
    if model.context_length is None or features.prompt_tokens_least < model.context_length:
        return None
    return f"the prompt has at least {features.prompt_tokens_least} tokens, the context {model.context_length}"


def health(_features: Features, _model: Model, deployment: Deployment, state: DeploymentHealth) -> str | None:
    """Leave alone what is known to be away."""
    if deployment.backend.stale:
        return "the agent has missed three heartbeats"
    return None if state.available else (state.reason or "unavailable")


def concurrency(_features: Features, _model: Model, deployment: Deployment, state: DeploymentHealth) -> str | None:
    """Respect how many requests at a time a deployment takes."""
    limit = deployment.limits.max_concurrency
    return None if limit is None or state.in_flight < limit else f"{limit} requests are in flight"


def cost(features: Features, _model: Model, deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Keep the expected cost under the caller's limit; an unknown price cannot promise that."""
    if features.max_cost_usd is None:
        return None
    expected = estimate_cost(features, deployment)
    if expected is None:
        return "its price is unknown and the request sets a maximum cost"
    if expected > features.max_cost_usd:
        return f"expected cost {expected.normalize():f} USD exceeds {features.max_cost_usd.normalize():f} USD"
    return None


def latency(features: Features, _model: Model, _deployment: Deployment, state: DeploymentHealth) -> str | None:
    """Keep the expected time to the first token under the caller's limit, where it is known."""
    if features.first_token_ms is None or state.first_token_ms is None:
        return None
    if state.first_token_ms <= features.first_token_ms:
        return None
    return f"first token comes after about {state.first_token_ms:.0f} ms, the limit is {features.first_token_ms} ms"


STATIC_FILTERS: tuple[tuple[str, Filter], ...] = (("privacy", privacy), ("capability", capability))
"""They look at the registry and the kind of request only: the same for many requests."""

LIVE_FILTERS: tuple[tuple[str, Filter], ...] = (
    ("context", context),
    ("health", health),
    ("concurrency", concurrency),
    ("cost", cost),
    ("latency", latency),
)
"""They look at this very request, or at what is known of the deployment now."""

FILTERS = STATIC_FILTERS + LIVE_FILTERS
"""Hard constraints first: the first reason found is the one that a rejection tells."""
