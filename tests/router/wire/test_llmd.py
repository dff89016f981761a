"""What the parts of an llm-d cluster mean by a failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.failures import endpoint_failure, error_event, failure
from shared.errors import (
    ServiceError,
    UpstreamLacksModel,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStarting,
    UpstreamTimeout,
    UpstreamUnavailable,
)

REASON = "x-llm-d-request-dropped-reason"


@pytest.mark.parametrize(
    ("status", "reason", "kind", "told", "wait"),
    [
        (429, "rejected-saturated", UpstreamOverloaded, 503, 2),
        (429, "rejected-ttl-expired", UpstreamOverloaded, 503, 10),
        (503, "rejected-ttl-expired", UpstreamOverloaded, 503, 10),
        (503, "rejected-no-endpoints", UpstreamStarting, 503, 10),
        (503, "rejected-shutting-down", UpstreamUnavailable, 503, None),
        (503, "rejected-context-cancelled", UpstreamUnavailable, 503, None),
        (500, "rejected-internal", UpstreamUnavailable, 502, None),
        (429, "evicted", UpstreamOverloaded, 503, 10),
        (429, "evicted-queue-pressure", UpstreamOverloaded, 503, 10),
        (429, "something-new", UpstreamRateLimited, 429, None),
    ],
)
def test_reason_says_what_is_meant(
    status: int, reason: str, kind: type[ServiceError], told: int, wait: float | None
) -> None:
    """EPP's header decides, whatever the text is; llm-d never says when to come back, so that is worked out."""
    error = failure(status, b"inference error: Whatever - words", {REASON: reason})
    assert (type(error), error.status, error.retry_after, error.retryable) == (kind, told, wait, True)
    assert getattr(error, "spent", False) == reason.startswith("evicted")
    own = failure(status, b"", {REASON: reason, "retry-after": "7"})
    assert own.retry_after == 7


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (429, "inference error: ResourceExhausted - failed to find target endpoint", UpstreamOverloaded),
        (500, "inference error: Internal - request cannot be admitted: no", UpstreamOverloaded),
        (500, "inference error: Internal - no pods available in datastore", UpstreamStarting),
        (500, "inference error: Internal - else", UpstreamUnavailable),
        (503, "inference error: ServiceUnavailable - failed to find endpoint candidates", UpstreamStarting),
        (503, "no healthy upstream", UpstreamStarting),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: overflow", UpstreamOverloaded),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: x", UpstreamUnavailable),
        (504, "upstream request timeout", UpstreamTimeout),
        (400, "inference error: BadRequest - no healthy upstream", UpstreamRejected),
        (503, "<p>no healthy upstream</p>", UpstreamUnavailable),
    ],
)
def test_text_says_what_is_meant(status: int, text: str, kind: type[ServiceError]) -> None:
    """Without the header the beginning of the text decides, told as plain text or as an error's message."""
    assert type(failure(status, text.encode(), {})) is kind
    told = json.dumps({"error": {"message": text, "type": "t", "code": status}}).encode()
    assert type(failure(status, told, {})) is kind
    assert type(error_event(json.dumps({"message": text, "code": status}).encode())) is kind


@given(st.sampled_from([429, 500, 503]), st.text(max_size=60), st.text(max_size=20))
def test_any_words_come_to_an_error(status: int, text: str, reason: str) -> None:
    """Whatever a proxy writes, the next candidate may answer, and nothing of it is quoted."""
    error = failure(status, f"inference error: {text} ~~~".encode(), {REASON: reason})
    assert error.retryable
    assert "~~~" not in error.message


@pytest.mark.parametrize(
    "detail",
    [
        {"message": "The model `x` does not exist. Valid aliases: y.", "type": "NotFoundError", "code": 404},
        {"message": "model 'x' not found", "type": "api_error"},
        {"message": "x", "code": "model_not_found"},
        {"message": "model: claude-x", "type": "not_found_error"},
    ],
)
def test_model_that_is_missing_is_nobodys_mistake_but_the_routers(detail: dict[str, str]) -> None:
    """The router chose the name, so another candidate may answer; not every 404 means that."""
    assert isinstance(failure(404, json.dumps({"error": detail}).encode(), {}), UpstreamLacksModel)
    assert isinstance(failure(404, json.dumps({"object": "error", **detail}).encode(), {}), UpstreamLacksModel)
    assert isinstance(failure(404, b" ", {}), UpstreamLacksModel)
    assert isinstance(endpoint_failure(404, b"", {}), UpstreamRejected)
    assert isinstance(endpoint_failure(404, b"\n", {}), UpstreamRejected)
    other = {"error": {"message": "The item 'x' was not found for this model.", "code": None}}
    assert isinstance(failure(400, json.dumps(other).encode(), {}), UpstreamRejected)
    assert isinstance(failure(404, b'{"detail": "Not Found"}', {}), UpstreamRejected)
    clients = {"error": {"message": "The file 'my model' does not exist.", "code": None}}
    assert isinstance(
        failure(404, json.dumps(clients).encode(), {}), UpstreamRejected
    )  # or one client rests it for all
