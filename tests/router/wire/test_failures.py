"""What a backend's failure means, by status, headers and words."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.failures import error_event, failure, rejected, retry_after
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from tests.support.properties import json_values

OPENAI = {"error": {"message": "Bad field.", "type": "their_type", "param": "x", "code": "their_code"}}


@pytest.mark.parametrize(
    ("status", "kind", "told", "retryable"),
    [
        (400, UpstreamRejected, 400, False),
        (401, UpstreamUnauthorized, 502, True),
        (402, UpstreamUnauthorized, 502, True),
        (403, UpstreamUnauthorized, 502, True),
        (404, UpstreamRejected, 404, False),
        (408, UpstreamTimeout, 504, True),
        (409, UpstreamRejected, 409, False),
        (413, UpstreamRejected, 413, False),
        (422, UpstreamRejected, 422, False),
        (429, UpstreamRateLimited, 429, True),
        (500, UpstreamUnavailable, 502, True),
        (502, UpstreamUnavailable, 502, True),
        (503, UpstreamUnavailable, 503, True),
        (504, UpstreamTimeout, 504, True),
        (529, UpstreamUnavailable, 529, True),
    ],
)
def test_failure_goes_by_the_status(status: int, kind: type[ServiceError], told: int, retryable: bool) -> None:
    """Each status has its error; those of our account never look like the caller's."""
    error = failure(status, json.dumps(OPENAI).encode(), {})
    assert (type(error), error.status, error.retryable) == (kind, told, retryable)


def test_failure_passes_a_rejection_through() -> None:
    """Message, type, param and code of a 4xx about the request are the backend's."""
    error = failure(422, json.dumps(OPENAI).encode(), {})
    assert error.body() == OPENAI


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "plain"}, "plain"),
        ({"message": "top level", "type": "t", "code": 400}, "top level"),
        ({"object": "error", "message": "old vLLM"}, "old vLLM"),
        ({"error": None, "message": "x"}, "x"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too many"}]}, "too many"),
        ({"detail": "no such thing"}, "no such thing"),
        ({"detail": {"message": "no"}}, "no"),
        ({"detail": []}, "The backend rejected the request (400)."),
        ({"error": {}}, "The backend rejected the request (400)."),
        ([], "The backend rejected the request (400)."),
    ],
    ids=str,
)
def test_failure_reads_every_shape_of_an_error(body: Any, message: str) -> None:
    """The error may be an object, a string, or the body itself."""
    assert failure(400, json.dumps(body).encode(), {}).message == message


@given(st.sampled_from([400, 401, 404, 408, 418, 429, 500, 503, 599]), st.binary(max_size=40))
def test_failure_tells_nothing_of_a_body_that_is_no_error(status: int, body: bytes) -> None:
    """Markup, traces and addresses in a foreign body stay there."""
    marked = b"<html>10.0.0.7 sk-secret " + body + b"</html>"
    error = failure(status, marked, {})
    assert "10.0.0.7" not in error.json().decode()
    assert "sk-secret" not in error.json().decode()
    assert error.message


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_failure_never_quotes_what_may_hold_our_key(status: int) -> None:
    """Providers repeat the key that they refuse."""
    body = {"error": {"message": "Incorrect API key provided: sk-secret.", "code": "invalid_api_key"}}
    assert "sk-secret" not in failure(status, json.dumps(body).encode(), {}).json().decode()


def test_failure_quotes_our_own_agent() -> None:
    """A backend that may be quoted has its 5xx told in its own words."""
    body = json.dumps({"error": {"message": "The engine restarted."}}).encode()
    assert failure(503, body, {}, quoted=True).message == "The engine restarted."
    assert failure(503, b"<html>", {}, quoted=True).message == "The backend failed with status 503."


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.", {}),
        ("Your input exceeds the context window of this model.", {}),
        ("x", {"code": "context_length_exceeded"}),
        ("The decoder prompt (length 9) is longer than the maximum model length of 8.", {}),
        ("Make sure that `max_model_len` is no smaller than the number of text tokens.", {}),
        ("x", {"param": "input_tokens"}),
        ("the request exceeds the available context size, try increasing it", {"type": "exceed_context_size_error"}),
        ("x", {"type": "exceed_context_size_error"}),
        ("prompt is too long: 210000 tokens > 200000 maximum", {}),
        ("The input (12 tokens) is longer than the model's context length (8 tokens).", {}),
    ],
)
def test_failure_knows_a_prompt_that_is_too_long(message: str, extra: dict[str, str]) -> None:
    """OpenAI, vLLM, llama.cpp and others each say it in their own words; only a larger context helps."""
    detail = {"message": message, **extra}
    error = failure(400, json.dumps({"error": detail}).encode(), {})
    assert isinstance(error, ContextLengthExceeded)
    assert (error.status, error.code, error.param, error.message) == (
        400,
        "context_length_exceeded",
        "messages",
        message,
    )
    assert isinstance(error_event(json.dumps(detail).encode()), ContextLengthExceeded)


def test_rejected_keeps_other_words_apart() -> None:
    """Neither other words nor another status make a prompt too long."""
    assert type(rejected(400, {"message": "The image is too long."})) is UpstreamRejected
    assert type(rejected(404, {"message": "context window"})) is UpstreamRejected


# --- Retry-After ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        (" 7 ", 7.0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("1e999", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999999999999999", None),
        ("Wed, 21 Oct 2015 07:28:00", 0.0),
    ],
)
def test_retry_after_reads_numbers_and_dates(value: str, seconds: float | None) -> None:
    """A number of seconds or an HTTP date is read; nonsense is as nothing."""
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_counts_the_seconds_to_a_date() -> None:
    """A date in an hour is an hour away."""
    date = format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)
    assert 3000 < (retry_after({"retry-after": date}) or 0) <= 3600
    assert retry_after({}) is None


@given(st.text(max_size=30))
def test_retry_after_survives_anything(value: str) -> None:
    """No header makes it fail, and the caller's header can always be written."""
    seconds = retry_after({"retry-after": value})
    assert int(UpstreamRateLimited("x", retry_after=seconds).headers().get("retry-after", "1")) >= 1


@pytest.mark.parametrize("status", [429, 503])
def test_failure_carries_retry_after(status: int) -> None:
    """A rate limit and an overload say when to come back."""
    assert failure(status, b"", {"retry-after": "30"}).headers() == {"retry-after": "30"}


# --- errors with status 200 -------------------------------------------------------------------


@pytest.mark.parametrize("raw", [None, b"null", b"[]", b"7", b"{broken", b"[" * 99999, b'{"x":"\xff"}'])
def test_error_event_survives_what_is_no_error(raw: bytes | None) -> None:
    """Without an error to read the backend has answered with nothing."""
    error = error_event(raw)
    assert isinstance(error, UpstreamUnavailable)
    assert error.message == "The backend's answer holds neither choices nor an error."


def test_error_event_tells_a_short_reason_without_keys() -> None:
    """The backend's words are told, cut to a length, with anything like a key taken out."""
    detail = {"message": "Failed with sk-abcdefghijklmnopqrst " + "x" * 1000, "code": 500}
    error = error_event(msgspec.Raw(json.dumps(detail).encode()))
    assert error.message.startswith("The backend reported an error: Failed with [redacted] xxx")
    assert len(error.message) < 600
    assert error_event(b"{}").message == "The backend reported an error: no reason given"


@given(json_values)
def test_error_event_survives_any_json(value: Any) -> None:
    """Whatever stands in `error`, the result is an error in OpenAI's shape."""
    error = error_event(json.dumps(value).encode())
    assert isinstance(error, ServiceError)
    assert set(json.loads(error.json())["error"]) == {"message", "type", "param", "code"}
    assert 400 <= error.status < 600
