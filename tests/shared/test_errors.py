"""The error tree and its one translation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import shared.errors
from shared.errors import (
    AllCandidatesFailed,
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    NoCandidate,
    NotCarried,
    ServiceError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
    error_body,
)


@dataclass
class Row:
    """What the reference says of an error."""

    status: int
    type: str
    code: str
    retryable: bool = False


INVALID = "invalid_request_error"
SERVER = "server_error"
TABLE = {
    "ServiceError": Row(500, SERVER, "internal_error"),
    "InvalidRequest": Row(400, INVALID, "invalid_request"),
    "ContextLengthExceeded": Row(400, INVALID, "context_length_exceeded"),
    "NotCarried": Row(400, INVALID, "not_carried", retryable=True),
    "Unauthenticated": Row(401, INVALID, "invalid_api_key"),
    "Forbidden": Row(403, INVALID, "model_not_allowed"),
    "NotFound": Row(404, INVALID, "not_found"),
    "ModelNotFound": Row(404, INVALID, "model_not_found"),
    "PreviousResponseNotFound": Row(400, INVALID, "previous_response_not_found"),
    "MethodNotAllowed": Row(405, INVALID, "method_not_allowed"),
    "IdempotencyConflict": Row(409, "idempotency_error", "idempotency_in_progress"),
    "IdempotencyKeyReused": Row(409, "idempotency_error", "idempotency_key_reused"),
    "NotReplayable": Row(409, "idempotency_error", "not_replayable"),
    "PayloadTooLarge": Row(413, INVALID, "request_too_large"),
    "UnsupportedMediaType": Row(415, INVALID, "unsupported_media_type"),
    "RateLimited": Row(429, "rate_limit_error", "rate_limit_exceeded"),
    "BudgetExceeded": Row(429, "insufficient_quota", "insufficient_quota"),
    "InternalError": Row(500, SERVER, "internal_error"),
    "Overloaded": Row(503, SERVER, "overloaded"),
    "EngineRestarted": Row(503, SERVER, "engine_restarted"),
    "NoCandidate": Row(503, SERVER, "no_candidate"),
    "UpstreamError": Row(502, SERVER, "upstream_unavailable"),
    "UpstreamUnavailable": Row(502, SERVER, "upstream_unavailable", retryable=True),
    "UpstreamTimeout": Row(504, SERVER, "upstream_timeout", retryable=True),
    "UpstreamOverloaded": Row(503, "server_error", "overloaded", retryable=True),
    "UpstreamRateLimited": Row(429, "rate_limit_error", "upstream_rate_limited", retryable=True),
    "UpstreamUnauthorized": Row(502, SERVER, "upstream_unauthorized", retryable=True),
    "UpstreamStarting": Row(503, SERVER, "model_starting", retryable=True),
    "UpstreamLacksModel": Row(502, SERVER, "upstream_lacks_model", retryable=True),
    "UpstreamRejected": Row(422, "their_type", "their_code"),
    "StreamInterrupted": Row(502, SERVER, "stream_interrupted"),
    "AllCandidatesFailed": Row(504, SERVER, "all_candidates_failed"),
}


def walk(kind: type[ServiceError], depth: int = 0) -> Iterator[tuple[int, type[ServiceError]]]:
    """Every error of `shared.errors` below `kind`, with its depth."""
    yield depth, kind
    for child in kind.__subclasses__():
        if child.__module__ == "shared.errors":
            yield from walk(child, depth + 1)


KINDS = [kind for _, kind in walk(ServiceError)]


def make(kind: type[ServiceError]) -> ServiceError:
    """One error of a kind."""
    if kind is UpstreamRejected:
        return UpstreamRejected(422, {"message": "why", "type": "their_type", "code": "their_code", "param": "p"})
    if kind is AllCandidatesFailed:
        return AllCandidatesFailed([UpstreamUnavailable("down"), UpstreamTimeout("slow")])
    return kind("why")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_keeps_to_the_table(kind: type[ServiceError]) -> None:
    """Status, type, code and whether another candidate may answer are those of the reference."""
    error = make(kind)
    assert Row(error.status, error.type, str(error.code), error.retryable) == TABLE[kind.__name__]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_has_all_four_keys(kind: type[ServiceError]) -> None:
    """The body is OpenAI's, with every key, as JSON and as an object."""
    error = make(kind)
    body = json.loads(error.json())
    assert body == error.body()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert str(error) == error.message


def test_error_module_names_every_error() -> None:
    """The table, `__all__` and the module's picture of the tree list the same errors."""
    names = {kind.__name__ for kind in KINDS}
    assert names == set(TABLE) == set(shared.errors.__all__) - {"error_body"}
    picture = re.findall(r"^    ([ │├└─]*)(\w+)", shared.errors.__doc__ or "", re.MULTILINE)
    drawn = [(len(lead) // 4, name) for lead, name in picture if name in TABLE]
    assert sorted(drawn) == sorted((depth, kind.__name__) for depth, kind in walk(ServiceError))


def test_error_module_draws_the_right_status_and_code() -> None:
    """Where the picture gives a status and a code, they are the class's."""
    rows = re.findall(r"(\w+) +(\d{3})  (\w+)(.*)", shared.errors.__doc__ or "")
    assert len(rows) > 15
    for name, status, code, note in rows:
        assert (TABLE[name].status, TABLE[name].code) == (int(status), code)
        assert TABLE[name].retryable == ("next candidate" in note)


@pytest.mark.parametrize(("asked", "told"), [(None, None), (0, "1"), (0.2, "1"), (1, "1"), (29.1, "30"), (30.0, "30")])
def test_error_tells_when_to_retry(asked: float | None, told: str | None) -> None:
    """`Retry-After` is in whole seconds, at least one, and never too early."""
    assert ServiceError("x", retry_after=asked).headers().get("retry-after") == told


def test_error_carries_headers_of_the_failed_request() -> None:
    """More headers stand beside `Retry-After`."""
    error = ServiceError("x", retry_after=2)
    error.extra_headers = {"x-router-attempts": "3"}
    assert error.headers() == {"retry-after": "2", "x-router-attempts": "3"}


def test_error_json_keeps_unicode() -> None:
    """Messages are UTF-8, not escapes."""
    assert "née ✓".encode() in InvalidRequest("née ✓", param="é").json()


def test_error_body_names_its_parameter() -> None:
    """The parameter at fault stands in `param`."""
    assert InvalidRequest("x", param="messages[0].role").body()["error"]["param"] == "messages[0].role"
    assert error_body("m", "t", None) == {"error": {"message": "m", "type": "t", "param": None, "code": None}}


def test_no_candidate_blames_the_request_only_for_missing_capabilities() -> None:
    """What no deployment can do is the request's error; all else may pass."""
    error = NoCandidate("no", missing_capability=True)
    assert (error.status, error.type, error.code) == (400, INVALID, "no_candidate")
    assert NoCandidate("no").status == 503
    assert NoCandidate.status == 503


@pytest.mark.parametrize(
    "theirs", [{}, {"message": None, "type": None}, {"message": {"a": 1}, "type": 3, "code": 400, "param": ["x"]}]
)
def test_upstream_rejected_survives_odd_bodies(theirs: dict[str, object]) -> None:
    """Whatever the backend's error holds, the caller's has strings or null."""
    error = UpstreamRejected(418, theirs).body()["error"]
    assert error["message"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)


def test_all_candidates_failed_looks_like_the_most_telling_attempt() -> None:
    """What the caller can act on comes first: a rate limit before a time-out before an outage before our key."""
    unauthorized, down = UpstreamUnauthorized("key"), UpstreamUnavailable("down")
    slow, limited = UpstreamTimeout("slow"), UpstreamRateLimited("limit", retry_after=7)
    assert AllCandidatesFailed([unauthorized]).status == 502
    assert "down" in AllCandidatesFailed([unauthorized, down]).message
    assert AllCandidatesFailed([slow, unauthorized, down]).status == 504
    error = AllCandidatesFailed([unauthorized, limited, down, slow])
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "all_candidates_failed")
    assert error.headers() == {"retry-after": "7"}
    assert "4 attempts" in error.message
    assert error.failures == [unauthorized, limited, down, slow]
    assert AllCandidatesFailed([ContextLengthExceeded("long"), down]).status == 400
    assert AllCandidatesFailed([NotCarried("no place"), down]).status == 502


def test_internal_error_is_the_servers() -> None:
    """An unknown fault is a 500 of ours."""
    assert InternalError("oops").body()["error"] == {
        "message": "oops",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
