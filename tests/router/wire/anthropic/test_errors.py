"""Errors as Anthropic's clients know them."""

from __future__ import annotations

import json

import pytest

from router.wire.anthropic.errors import PING, error, error_event
from router.wire.failures import error_event as backend_event
from router.wire.failures import failure
from shared.errors import (
    AllCandidatesFailed,
    BudgetExceeded,
    Forbidden,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NoCandidate,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    ServiceError,
    StreamInterrupted,
    Unauthenticated,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from shared.sse import SSEReader


@pytest.mark.parametrize(
    ("told", "status", "kind"),
    [
        (InvalidRequest("x"), 400, "invalid_request_error"),
        (Unauthenticated("x"), 401, "authentication_error"),
        (Forbidden("x"), 403, "permission_error"),
        (ModelNotFound("x"), 404, "not_found_error"),
        (PayloadTooLarge("x"), 413, "request_too_large"),
        (RateLimited("x"), 429, "rate_limit_error"),
        (BudgetExceeded("x"), 429, "billing_error"),
        (InternalError("x"), 500, "api_error"),
        (UpstreamUnavailable("x"), 502, "api_error"),
        (UpstreamTimeout("x"), 504, "timeout_error"),
        (Overloaded("x"), 529, "overloaded_error"),
        (NoCandidate("x"), 503, "api_error"),
        (failure(529, b"", {}), 529, "overloaded_error"),
        (AllCandidatesFailed([failure(529, b"", {})]), 529, "overloaded_error"),
        (UpstreamRejected(422, {"message": "x", "type": "their_type"}), 422, "invalid_request_error"),
        (UpstreamRejected(409, {"message": "x", "type": "conflict_error"}), 409, "conflict_error"),
    ],
)
def test_error_has_the_status_and_the_type_of_the_dialect(told: ServiceError, status: int, kind: str) -> None:
    """Each failure has Anthropic's status, type and shape."""
    code, body = error(told)
    answer = json.loads(body)
    assert (code, answer["type"], answer["error"]["type"]) == (status, "error", kind)
    assert answer["error"]["message"] == told.message
    assert set(answer) == {"type", "error", "request_id"}


def test_error_keeps_a_backends_details() -> None:
    """What a backend says of a rejection beside the words reaches its clients."""
    detail = {"type": "invalid_request_error", "message": "no", "details": {"error_code": "file_expired"}}
    _, body = error(failure(400, json.dumps({"type": "error", "error": detail}).encode(), {}))
    assert json.loads(body)["error"] == detail


def test_error_event_is_one_event_of_its_name() -> None:
    """An error in a stream has its `event:` line; so has a ping."""
    (event,) = SSEReader().feed(error_event(StreamInterrupted("cut")))
    assert event.event == "error"
    assert json.loads(event.data or b"")["error"] == {"type": "api_error", "message": "cut"}
    (ping,) = SSEReader().feed(PING)
    assert (ping.event, json.loads(ping.data or b"")) == ("ping", {"type": "ping"})


def test_an_empty_account_is_the_routers_and_an_overload_passes() -> None:
    """Anthropic tells both in ways of its own: the next candidate may answer."""
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}'
    assert isinstance(failure(400, body, {}), UpstreamUnauthorized)
    told = backend_event(b'{"type":"overloaded_error","message":"Overloaded"}')
    assert (type(told), told.status, told.retryable) == (UpstreamUnavailable, 529, True)
