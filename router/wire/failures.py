"""What a backend's failure means: one translation for every dialect with an `error` object."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from router.wire.llmd import cluster_failure
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamLacksModel,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from shared.logs import redact

__all__ = ["ABORTED", "aborted", "endpoint_failure", "error_event", "failure", "rejected", "retry_after", "unavailable"]

ABORTED = "abort"
"""The reason to finish that vLLM and SGLang give where they broke an answer off: half of it, called whole."""

_OUR_ACCOUNT = (401, 402, 403)
_OUR_ACCOUNT_CODES = ("invalid_api_key", "authentication_error", "insufficient_quota", "permission_error")
_NO_CAPACITY = (503, 529)
"""What says that a backend is well but cannot take this now: the caller is told the same."""
_TOO_LONG = (
    "context length",
    "context window",
    "context size",  # llama.cpp
    "maximum model length",  # vLLM
    "max_model_len",
    "prompt is too long",
)
_OUR_ACCOUNT_WORDS = ("credit balance is too low",)
"""Anthropic tells an empty account as a 400."""
_OVERLOADED = 529
_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
_WAITED_OUT = (408, 504)
_NO_SUCH_MODEL = re.compile(r"(the )?model\b.*\b(does not exist|not found)\b|model: ", re.IGNORECASE | re.DOTALL)
"""vLLM, OpenAI, Ollama; Anthropic. From the start: further on may be a client's own words."""


def failure(status: int, body: bytes, headers: Mapping[str, str], *, quoted: bool = False) -> ServiceError:
    """Return the error for a reply with a 4xx or 5xx status.

    Nothing of a body that is not an OpenAI-style error reaches the caller.

    Args:
        status: The reply's status.
        body: The reply's body.
        headers: The reply's headers.
        quoted: Whether a 5xx may be told in the backend's own words, as those of our agent may.
    """
    detail, wait = _detail(body), retry_after(headers)
    said = str(detail.get("message") or "") or body[:500].decode("utf-8", "replace")
    if (error := cluster_failure(status, said, headers, wait)) is not None:
        return error
    if status == 404 and not body.strip():
        # So does a P/D cluster say that it lacks a model; about the request itself a server would say more.
        return _lacks_model()
    if (error := _by_status(status, detail, wait)) is not None:
        return error
    words = str(detail.get("message") or "") if quoted else ""
    if status == 503 and detail.get("code") == "overloaded":
        return UpstreamOverloaded(words[:500] or "The backend's queue is full.", retry_after=wait)
    return unavailable(status, wait, words[:500])


def endpoint_failure(status: int, body: bytes, headers: Mapping[str, str]) -> ServiceError:
    """Return what `failure` does for an endpoint that not every backend has: without a word, a 404 says just that."""
    return failure(status, body if body.strip() else b"{}", headers)


def unavailable(status: int, wait: float | None, words: str = "") -> UpstreamUnavailable:
    """Return the error for a 5xx; a 503 and a 529 stay what they are."""
    error = UpstreamUnavailable(words or f"The backend failed with status {status}.", retry_after=wait)
    if status in _NO_CAPACITY:
        error.status = status
    return error


def _by_status(status: int, detail: dict[str, Any], wait: float | None) -> ServiceError | None:
    """Return what a 4xx or a timeout means, told by a status line or within a body; None for any other status."""
    if status in _OUR_ACCOUNT or (status == 400 and _names_our_account(detail)):
        return UpstreamUnauthorized(f"The backend refused the router's credentials ({status}).")
    if status in _WAITED_OUT:
        return UpstreamTimeout(f"The backend gave up waiting ({status}).", retry_after=wait)
    if status == 404 and _names_no_model(detail):
        return _lacks_model()
    if status == 429:
        return UpstreamRateLimited("The backend's rate limit is reached.", retry_after=wait, theirs=detail)
    return rejected(status, detail) if 400 <= status < 500 else None


def _detail(body: bytes) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    detail = parsed.get("error") or parsed.get("detail") or parsed
    if isinstance(detail, list):
        detail = detail[0] if detail else {}
        return _validation(detail) if isinstance(detail, dict) else {}
    if isinstance(detail, str):
        return {"message": detail}
    return detail if isinstance(detail, dict) else {}


def _validation(detail: dict[str, Any]) -> dict[str, Any]:
    """Return one entry of FastAPI's list of what is wrong as an error object."""
    place = detail.get("loc")
    path = [str(part) for part in place if part != "body"] if isinstance(place, list) else []
    return {"message": detail.get("msg"), "type": "invalid_request_error", "param": ".".join(path) or None}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for (a number or an HTTP date), or None."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def aborted() -> UpstreamUnavailable:
    """Return the error for an answer that its backend broke off and ended properly all the same."""
    return UpstreamUnavailable("The backend broke its answer off.")


def error_event(raw: msgspec.Raw | bytes | None) -> ServiceError:
    """Return the error that a backend sent with status 200, in a body or in a stream."""
    try:
        detail: Any = msgspec.json.decode(bytes(raw)) if raw is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = None
    if isinstance(detail, str):
        detail = {"message": detail}
    if not isinstance(detail, dict):
        return UpstreamUnavailable("The backend's answer holds neither choices nor an error.")
    code = detail.get("code")
    status = code if isinstance(code, int) else detail.get("status")
    if not isinstance(status, int):
        # An error without a status still says by its code or words whose fault it is.
        if code in _OUR_ACCOUNT_CODES or detail.get("type") in _OUR_ACCOUNT_CODES:
            status = 401
        elif code == "rate_limit_exceeded" or detail.get("type") == "rate_limit_error":
            status = 429
        elif detail.get("type") == "overloaded_error":
            status = _OVERLOADED
        else:
            status = 400 if _too_long(detail) else 500
    message = str(detail.get("message") or "no reason given")[:500]
    if (error := cluster_failure(status, message, {}, None)) is not None:
        return error
    if (error := _by_status(status, detail, None)) is not None:
        return error
    unavailable = UpstreamUnavailable(f"The backend reported an error: {redact(message)}")
    if status in _NO_CAPACITY:
        unavailable.status = status
    return unavailable


def rejected(status: int, detail: dict[str, Any]) -> ServiceError:
    """Return the error for a backend's 4xx about the request itself."""
    if status in (400, 413, 422) and _too_long(detail):
        message = str(detail.get("message") or "The prompt is too long for the model.")
        return ContextLengthExceeded(message, param="messages")
    return UpstreamRejected(status, detail)


def _lacks_model() -> UpstreamLacksModel:
    return UpstreamLacksModel("The backend does not serve the model that the router asked it for.")


def _names_no_model(detail: dict[str, Any]) -> bool:
    """Return whether a 404 says that there is no such model: the router chose the name, so it is no caller's fault."""
    return detail.get("code") == "model_not_found" or bool(_NO_SUCH_MODEL.match(str(detail.get("message") or "")))


def _names_our_account(detail: dict[str, Any]) -> bool:
    message = str(detail.get("message") or "").lower()
    return any(words in message for words in _OUR_ACCOUNT_WORDS)


def _too_long(detail: dict[str, Any]) -> bool:
    if detail.get("code") in _TOO_LONG_CODES or detail.get("type") in _TOO_LONG_CODES:
        return True
    message = str(detail.get("message") or "").lower()
    return detail.get("param") == "input_tokens" or any(phrase in message for phrase in _TOO_LONG)
