"""Filters: each says why a deployment cannot or must not serve a request, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from router.interfaces import Filter
from router.routing.estimates import estimate_cost
from router.types import Deployment, DeploymentHealth, Dialect, Features, Model

__all__ = ["FILTERS", "LIVE_FILTERS", "STATIC_FILTERS", "TIER_REACH"]

TIER_REACH = {"local": ("local",), "cluster": ("local", "cluster"), "any": ("local", "cluster", "external")}
_BRIDGED = frozenset({"responses", "messages"})
"""Endpoints that whatever can chat can serve too."""
_CHAT_AND_BRIDGED = _BRIDGED | {"chat"}
_NATIVE = {"native_responses": "responses", "native_messages": "messages"}
"""What only a backend that has an endpoint itself can do there, and the capability that says so."""
_FORMS = frozenset({"raw_prompt", "audio_api"})
"""Ways to ask that a model needs no capability of its own for, but a dialect words."""
_SPOKEN: Mapping[Dialect, frozenset[str]] = {
    # `/infer` has no fields for more than text in, text out.
    "local_agent": _CHAT_AND_BRIDGED | {"completions"},
    "anthropic": _CHAT_AND_BRIDGED | {"native_messages", "tools", "json_schema", "vision", "files", "reasoning"},
    "gemini": _CHAT_AND_BRIDGED | {"tools", "json_schema", "vision", "audio", "files", "logprobs", "reasoning"},
}
"""All that a dialect has words for; whatever is not here speaks OpenAI's and has words for everything."""
_ONE_CHOICE = ("local_agent", "anthropic")


def privacy(features: Features, _model: Model, deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Keep the request within the tiers that its privacy allows."""
    if deployment.backend.tier in TIER_REACH[features.privacy]:
        return None
    return f"tier {deployment.backend.tier} is outside privacy {features.privacy}"


def capability(features: Features, model: Model, deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Reject what cannot do something that the request needs; unknown capabilities do not count."""
    dialect = deployment.backend.dialect
    if features.choices > 1 and dialect in _ONE_CHOICE:
        return f"a backend of dialect {dialect} gives one choice (n = 1)"
    needs, known = features.needs, model.capabilities
    missing = needs - known - _FORMS if known else frozenset()
    if missing & _BRIDGED and "chat" in known:
        missing -= _BRIDGED
    for need, declared in _NATIVE.items():
        if need in needs:
            # An endpoint of its own is not assumed of a backend: whoever has it says so, or speaks that dialect.
            said = declared in known or declared in deployment.backend.endpoints
            natively = said or need in _SPOKEN.get(dialect, ())
            missing = missing - {need} if natively else missing | {need}
    if (spoken := _SPOKEN.get(dialect)) is not None:
        missing |= needs - spoken
    return f"lacks {', '.join(sorted(missing))}" if missing else None


def pin(features: Features, _model: Model, deployment: Deployment, _health: DeploymentHealth) -> str | None:
    """Keep a request where the things are that it refers to."""
    if features.pin is None or features.pin == deployment.id:
        return None
    return f"the request refers to something that only {features.pin} holds"


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
    ("pin", pin),
    ("context", context),
    ("health", health),
    ("concurrency", concurrency),
    ("cost", cost),
    ("latency", latency),
)
"""They look at this very request, or at what is known of the deployment now."""

FILTERS = STATIC_FILTERS + LIVE_FILTERS
"""Hard constraints first: the first reason found is the one that a rejection tells."""
