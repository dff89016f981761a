"""What Google's errors mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.wire.gemini.failures import google_failure, stream_failure
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from tests.support.gemini_upstream import error

KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}
LONG = "The input token count (1048600) exceeds the maximum number of tokens allowed (1048576)."


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", KEY), UpstreamUnauthorized),
        (error(400, "INVALID_ARGUMENT", "API key expired.", KEY), UpstreamUnauthorized),
        (error(400, "FAILED_PRECONDITION", "User location is not supported."), UpstreamUnauthorized),
        (error(403, "PERMISSION_DENIED"), UpstreamUnauthorized),
        (error(400, "INVALID_ARGUMENT", LONG), ContextLengthExceeded),
        (error(400, "INVALID_ARGUMENT", "Unknown name"), UpstreamRejected),
        (error(404, "NOT_FOUND", "models/x is not found"), UpstreamRejected),
        (error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", RETRY), UpstreamRateLimited),
        (error(499, "CANCELLED"), UpstreamUnavailable),
        (error(500, "INTERNAL"), UpstreamUnavailable),
        (error(503, "UNAVAILABLE", "The model is overloaded."), UpstreamOverloaded),
        (error(503, "UNAVAILABLE", "The service is currently unavailable."), UpstreamUnavailable),
        (error(504, "DEADLINE_EXCEEDED"), UpstreamTimeout),
    ],
)
def test_failure_means_one_of_ours(body: dict[str, Any], kind: type[ServiceError]) -> None:
    """By status and details, as a body, as the only element of a list, and within a stream."""
    status = body["error"]["code"]
    found = google_failure(status, json.dumps(body).encode(), {})
    assert type(found) is kind
    assert type(google_failure(status, json.dumps([body]).encode(), {})) is kind
    assert type(stream_failure(json.dumps(body["error"]).encode())) is kind


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"error":5}', b"\xff"])
def test_failure_without_a_body_goes_by_its_status(body: bytes) -> None:
    """Nothing of a body that is none reaches the caller."""
    assert isinstance(google_failure(429, body, {}), UpstreamRateLimited)
    assert isinstance(google_failure(401, body, {}), UpstreamUnauthorized)
    assert isinstance(google_failure(400, body, {}), UpstreamRejected)
    assert isinstance(google_failure(502, body, {}), UpstreamUnavailable)
    assert isinstance(stream_failure(body), UpstreamUnavailable)


def test_failure_tells_when_to_come_back() -> None:
    """The header's word counts; without it, that of the details."""
    limited = json.dumps(error(429, "RESOURCE_EXHAUSTED", "Quota", KEY, RETRY)).encode()
    assert google_failure(429, limited, {}).retry_after == 37.5
    assert google_failure(429, limited, {"retry-after": "3"}).retry_after == 3
    odd = json.dumps(error(429, "RESOURCE_EXHAUSTED", "Quota", {"retryDelay": "infs"})).encode()
    assert google_failure(429, odd, {}).retry_after is None


def test_failure_of_the_callers_making_keeps_its_words() -> None:
    """A 4xx is passed on in OpenAI's shape, without anything that looks like a key."""
    body = error(400, "INVALID_ARGUMENT", "Bad 'tools'. Authorization: Bearer sk-abcdefghijklmnop1234567890")
    found = google_failure(400, json.dumps(body).encode(), {})
    told = found.body()["error"]
    assert (told["type"], told["code"]) == ("invalid_request_error", "invalid_argument")
    assert "Bad 'tools'." in told["message"]
    assert "abcdefghijklmnop" not in told["message"]
