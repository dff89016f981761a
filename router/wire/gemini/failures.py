"""What Google's errors mean: `{"error": {"code", "message", "status", "details"}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from router.wire.failures import failure, retry_after, unavailable
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
)
from shared.logs import redact

__all__ = ["google_failure", "stream_failure"]

_NO_HEADERS: Mapping[str, str] = {}
_TOO_LONG = ("input token count", "maximum number of tokens allowed")
_FULL = ("overloaded", "high demand")
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d*)?)s")
_KEY_REASONS = ("API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "ACCESS_TOKEN_EXPIRED")


class _Detail(msgspec.Struct, rename="camel"):
    reason: str | None = None
    retry_delay: str | None = None


class _Error(msgspec.Struct):
    code: int | None = None
    message: str = ""
    status: str = ""
    details: list[_Detail] | None = None


class _Body(msgspec.Struct):
    error: _Error


_BODY: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Body)
_BODIES: msgspec.json.Decoder[list[_Body]] = msgspec.json.Decoder(list[_Body])


def google_failure(status: int, body: bytes, headers: Mapping[str, str]) -> ServiceError:
    """Return the error for a reply with a 4xx or 5xx status; nothing but a 4xx's own words reaches the caller."""
    try:
        # A stream's error may come as the only element of a list.
        error = (_BODIES.decode(body)[0] if body.lstrip().startswith(b"[") else _BODY.decode(body)).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        return failure(status, b"", headers)
    return _meaning(status, error, headers)


def stream_failure(data: bytes | msgspec.Raw) -> ServiceError:
    """Return the error for an `error` object within an answer."""
    try:
        error = msgspec.json.decode(data, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _Error()
    return _meaning(error.code or 500, error, _NO_HEADERS)


def _meaning(status: int, error: _Error, headers: Mapping[str, str]) -> ServiceError:
    words = redact(error.message)[:1000]
    told = words.lower()
    if status == 429:
        wait = retry_after(headers)
        return UpstreamRateLimited("The backend's rate limit is reached.", retry_after=wait or _delay(error))
    if status in (401, 402, 403) or _ours(error):
        return UpstreamUnauthorized(f"The backend refused the router's credentials ({status}).")
    if status in (408, 504):
        return UpstreamTimeout(f"The backend gave up waiting ({status}).")
    if 400 <= status < 500 and status != 499:
        if all(phrase in told for phrase in _TOO_LONG):
            return ContextLengthExceeded(words, param="messages")
        code = error.status.lower() or None
        return UpstreamRejected(status, {"message": words, "type": "invalid_request_error", "code": code})
    wait = retry_after(headers) or _delay(error)
    if status == 503 and any(phrase in told for phrase in _FULL):
        return UpstreamOverloaded("The backend has no room.", retry_after=wait)
    return unavailable(status, wait)


def _ours(error: _Error) -> bool:
    """Return whether it is about the router's account, which Google also tells with a 400."""
    if any(detail.reason in _KEY_REASONS for detail in error.details or ()):
        return True
    return error.status == "FAILED_PRECONDITION" or "api key not valid" in error.message.lower()


def _delay(error: _Error) -> float | None:
    """Return the seconds of a `RetryInfo`: `37s`, `0.5s`."""
    for detail in error.details or ():
        if (delay := _SECONDS.fullmatch(detail.retry_delay or "")) is not None:
            return float(delay.group(1))
    return None
