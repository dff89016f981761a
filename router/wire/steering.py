"""What steers an llm-d cluster from within a request: the router's to say, and never a client's.

Whoever sets these picks the worker, the priority and the tenant that a request counts for, or sends a worker to fetch
memory from an address. llm-d trusts whoever reaches it, so what a client says of them ends here.
"""

from __future__ import annotations

import msgspec
from msgspec import structs

from router.types import InferenceRequest
from router.wire.fields import index_fields, remove_field, splice
from router.wire.forms import is_form

__all__ = ["FAIRNESS_ID", "OBJECTIVE", "TTFT_MS", "steers", "without_steering"]

FAIRNESS_ID = "x-llm-d-inference-fairness-id"
OBJECTIVE = "x-llm-d-inference-objective"
TTFT_MS = "x-llm-d-slo-ttft-ms"

_PREFIXES = ("x-llm-d-", "x-gateway-", "x-slo-", "x-session-token", "x-envoy-", "x-vllm-")
_HEADERS = frozenset(
    {
        "x-prefiller-host-port",
        "x-encoder-hosts-ports",
        "x-encoder-host-ports",
        "x-data-parallel-host-port",
        "x-data-parallel-rank",
        "x-kv-cache-source-host-port",
        "x-session-affinity",
    }
)
_PREFER = "prefer"
"""llm-d's picker tells by it which worker it would take, without sending the request there."""
_FIELDS = frozenset(
    {
        "priority",  # vLLM's queue, where it goes by priority: every client could be the first
        "kv_transfer_params",  # which host the worker gets the prompt's memory from
        "ec_transfer_params",
        "data_parallel_rank",
        "bootstrap_host",  # SGLang's words for the same
        "bootstrap_port",
        "bootstrap_room",
    }
)
_EXTRAS = "vllm_xargs"
"""vLLM takes what is in it for what is named beside it."""


def steers(header: str, *, cluster: bool = False) -> bool:
    """Return whether a client's header would steer a cluster; its name in lower case.

    Args:
        header: The header.
        cluster: Whether it goes to one, where headers count that mean something harmless elsewhere.
    """
    return header in _HEADERS or header.startswith(_PREFIXES) or (cluster and header == _PREFER)


def without_steering(request: InferenceRequest) -> InferenceRequest:
    """Return a request without the fields that would steer a cluster; what went is in its `changes`."""
    spans = request.spans
    smuggled = _EXTRAS in spans and _smuggles(request.body[slice(*spans[_EXTRAS])])
    if (_FIELDS.isdisjoint(spans) and not smuggled) or is_form(request.content_type):
        return request
    body = request.body
    gone = [name for name in spans if name in _FIELDS or (smuggled and name == _EXTRAS)]
    for name in gone:
        body, spans = index_fields(splice(body, [remove_field(body, spans, name)]))
    changes = (*request.changes, *(f"{name} dropped" for name in gone))
    return structs.replace(request, body=body, spans=spans, changes=changes)


def _smuggles(extras: bytes | memoryview) -> bool:
    """Return whether extras name what steers, as their reader sees the names: an escaped underscore is one too."""
    try:
        return b"_transfer_params" in msgspec.json.encode(msgspec.json.decode(extras))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return True  # who knows what another reader makes of it
