"""What the parts of an llm-d cluster mean by a failure: its endpoint picker (EPP), Envoy before it, vLLM behind it.

EPP's answers are plain text (JSON in releases after v0.10), most with a header that gives the reason. None says when
to come back, so that is said here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.errors import ServiceError, UpstreamOverloaded, UpstreamStarting, UpstreamUnavailable

__all__ = ["STARTING", "cluster_failure"]

STARTING = 10.0
"""Seconds after which to ask again for a model that is starting."""
_REASON = "x-llm-d-request-dropped-reason"
_EPP = re.compile(r"inference error: (\w+) - ")
_FULL = 2.0
"""Seconds after which a queue that was full may have room."""
_LONG_FULL = 10.0
"""The same, where a request has waited in vain already."""
_SPEAKS_SO = (429, 500, 503)
_NO_ENDPOINTS = (
    "no healthy upstream",  # Envoy
    "no pods available",
    "no endpoints available",
    "failed to find endpoint candidates",
)
_NO_ROOM = (
    "system saturated",
    "request cannot be admitted",  # a plugin's verdict, which comes as a 500
    "failed to find target endpoint",
    "The engine is currently busy",  # vLLM's `--max-num-queued-reqs`
    "The engine has reached its prefill token backlog",  # and `--max-num-queued-tokens`
)


def cluster_failure(status: int, said: str, headers: Mapping[str, str], wait: float | None) -> ServiceError | None:
    """Return the error for a reply by which a part of a cluster says why it does not answer; None for any other.

    Args:
        status: The reply's status.
        said: Its error's message, or how its text begins.
        headers: Its headers.
        wait: What its `Retry-After` asks for.
    """
    if status not in _SPEAKS_SO:
        return None
    if (reason := headers.get(_REASON)) is not None and (error := _by_reason(reason, wait)) is not None:
        return error
    told = _EPP.match(said)
    words = said if told is None else said[told.end() :]
    if words.startswith(_NO_ENDPOINTS):
        return _starting(wait)
    exhausted = told is not None and told.group(1) == "ResourceExhausted"
    overflow = words.startswith("upstream connect error") and "reset reason: overflow" in words
    return _full(wait) if exhausted or overflow or words.startswith(_NO_ROOM) else None


def _by_reason(reason: str, wait: float | None) -> ServiceError | None:
    if reason.startswith("evicted"):
        given_up = "The cluster gave the request up for one of a higher priority."
        evicted = UpstreamOverloaded(given_up, retry_after=_LONG_FULL if wait is None else wait)
        evicted.spent = True
        return evicted
    if reason == "rejected-no-endpoints":
        return _starting(wait)
    if reason == "rejected-ttl-expired":
        return _full(_LONG_FULL if wait is None else wait)
    if reason == "rejected-saturated":
        return _full(wait)
    if reason in ("rejected-shutting-down", "rejected-context-cancelled"):
        error = UpstreamUnavailable("The cluster's entrance gave the request up.", retry_after=wait)
        error.status = 503
        return error
    return None


def _starting(wait: float | None) -> UpstreamStarting:
    return UpstreamStarting(
        "The model is starting: the cluster has no server for it yet.", retry_after=STARTING if wait is None else wait
    )


def _full(wait: float | None) -> UpstreamOverloaded:
    return UpstreamOverloaded("The cluster has no room.", retry_after=_FULL if wait is None else wait)
