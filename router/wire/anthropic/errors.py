"""Errors as Anthropic's clients know them."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.errors import BudgetExceeded, NoCandidate, ServiceError, UpstreamRejected
from shared.sse import encode_event

__all__ = ["PING", "error", "error_event"]

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERLOADED = 529


def error(failure: ServiceError) -> tuple[int, bytes]:
    """Return the status and the body that tell an Anthropic client of a failure."""
    status = _status(failure)
    return status, msgspec.json.encode(_body(failure, status))


def error_event(failure: ServiceError) -> bytes:
    """Return the event that ends a stream with a failure."""
    return encode_event(msgspec.json.encode(_body(failure, _status(failure))), "error")


def _status(failure: ServiceError) -> int:
    """Return the status: a lack of room is a 529 in this dialect, and a 503 something else."""
    if failure.status == 503 and not isinstance(failure, NoCandidate):
        return _OVERLOADED
    return failure.status


def _body(failure: ServiceError, status: int) -> dict[str, Any]:
    said: dict[str, Any] = {"type": _type(failure, status), "message": failure.message}
    if isinstance(failure, UpstreamRejected) and isinstance(details := failure.error.get("details"), dict):
        said["details"] = details
    return {"type": "error", "error": said, "request_id": failure.extra_headers.get("x-request-id")}


def _type(failure: ServiceError, status: int) -> str:
    if isinstance(failure, UpstreamRejected) and failure.type in _TYPES.values():
        return failure.type
    if isinstance(failure, BudgetExceeded):
        return "billing_error"
    if isinstance(failure, NoCandidate) and status == 503:
        return "api_error"
    if status in _TYPES:
        return _TYPES[status]
    return "invalid_request_error" if 400 <= status < 500 else "api_error"
