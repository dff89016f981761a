"""The error tree of both services and its one translation to OpenAI JSON.

::

    ServiceError
    ├── InvalidRequest            400  invalid_request
    │   ├── ContextLengthExceeded 400  context_length_exceeded
    │   ├── NotCarried            400  not_carried               next candidate
    │   ├── Unauthenticated       401  invalid_api_key
    │   ├── Forbidden             403  model_not_allowed
    │   ├── PreviousResponseNotFound 400  previous_response_not_found
    │   ├── NotFound              404  not_found
    │   │   └── ModelNotFound     404  model_not_found
    │   ├── MethodNotAllowed      405  method_not_allowed
    │   ├── IdempotencyConflict   409  idempotency_in_progress
    │   │   ├── IdempotencyKeyReused  409  idempotency_key_reused
    │   │   └── NotReplayable     409  not_replayable
    │   ├── PayloadTooLarge       413  request_too_large
    │   └── UnsupportedMediaType  415  unsupported_media_type
    ├── RateLimited               429  rate_limit_exceeded
    ├── BudgetExceeded            429  insufficient_quota
    ├── InternalError             500  internal_error
    ├── Overloaded                503  overloaded
    ├── EngineRestarted           503  engine_restarted
    ├── NoCandidate               503  no_candidate (400: every rejection is a missing capability)
    └── UpstreamError
        ├── UpstreamUnavailable   502  upstream_unavailable      next candidate
        │   └── UpstreamLacksModel 502  upstream_lacks_model     next candidate
        ├── UpstreamTimeout       504  upstream_timeout          next candidate
        ├── UpstreamRateLimited   429  upstream_rate_limited     next candidate
        ├── UpstreamOverloaded    503  overloaded                next candidate
        ├── UpstreamStarting      503  model_starting            next candidate
        ├── UpstreamUnauthorized  502  upstream_unauthorized     next candidate
        ├── UpstreamRejected      theirs, passed through
        ├── StreamInterrupted     in-stream, after the commit point
        └── AllCandidatesFailed   the most telling attempt's status

A class says whether the next candidate may answer instead (`retryable`); the default is no.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

__all__ = [
    "AllCandidatesFailed",
    "BudgetExceeded",
    "ContextLengthExceeded",
    "EngineRestarted",
    "Forbidden",
    "IdempotencyConflict",
    "IdempotencyKeyReused",
    "InternalError",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelNotFound",
    "NoCandidate",
    "NotCarried",
    "NotFound",
    "NotReplayable",
    "Overloaded",
    "PayloadTooLarge",
    "PreviousResponseNotFound",
    "RateLimited",
    "ServiceError",
    "StreamInterrupted",
    "Unauthenticated",
    "UnsupportedMediaType",
    "UpstreamError",
    "UpstreamLacksModel",
    "UpstreamOverloaded",
    "UpstreamRateLimited",
    "UpstreamRejected",
    "UpstreamStarting",
    "UpstreamTimeout",
    "UpstreamUnauthorized",
    "UpstreamUnavailable",
    "error_body",
]


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object; all four keys are always present."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


class ServiceError(Exception):
    """Base of every error a caller may see.

    Args:
        message: What went wrong and, where there is one, what to do; shown to the caller.
        param: The request field at fault, as a path (`messages[0].role`).
        retry_after: Seconds after which a retry makes sense; becomes the `Retry-After` header.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    retryable: ClassVar[bool] = False
    """Whether the next candidate of a decision may answer instead."""

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.extra_headers: dict[str, str] = {}
        """Headers that say more of the failed request."""

    def body(self) -> dict[str, Any]:
        """Return the OpenAI error object of this error."""
        return error_body(self.message, self.type, self.code, self.param)

    def json(self) -> bytes:
        """Return `body()` as compact UTF-8 JSON."""
        return json.dumps(self.body(), ensure_ascii=False, separators=(",", ":")).encode()

    def headers(self) -> dict[str, str]:
        """Return the headers that go with this error."""
        wait = {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        return {**wait, **self.extra_headers}


class InvalidRequest(ServiceError):
    """The request cannot be served as written; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the model; only a larger context can answer."""

    code = "context_length_exceeded"


class NotCarried(InvalidRequest):
    """The backend's dialect has no place for a part of the request; another backend's may."""

    code = "not_carried"
    retryable = True


class Unauthenticated(InvalidRequest):
    """No key, or one that is not valid."""

    status = 401
    code = "invalid_api_key"


class Forbidden(InvalidRequest):
    """A valid key that may not use this model or route."""

    status = 403
    code = "model_not_allowed"


class NotFound(InvalidRequest):
    """No such route or object."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """No model, alias or policy of that name."""

    code = "model_not_found"


class PreviousResponseNotFound(InvalidRequest):
    """The response that a request follows is not kept, or not this caller's."""

    code = "previous_response_not_found"


class MethodNotAllowed(InvalidRequest):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class IdempotencyConflict(InvalidRequest):
    """A request with the same `Idempotency-Key` is still under way elsewhere; carries `Retry-After`."""

    status = 409
    type = "idempotency_error"
    code = "idempotency_in_progress"


class IdempotencyKeyReused(IdempotencyConflict):
    """The `Idempotency-Key` belongs to another request: another endpoint or body."""

    code = "idempotency_key_reused"

    def headers(self) -> dict[str, str]:
        """Return the headers that go with this error: the same again fails again, which SDKs retry at a 409."""
        return {"x-should-retry": "false", **super().headers()}


class NotReplayable(IdempotencyConflict):
    """The answer to this `Idempotency-Key` is too large to be given again, or what `Last-Event-ID` names is gone."""

    code = "not_replayable"

    def headers(self) -> dict[str, str]:
        """Return the headers that go with this error."""
        return {"x-should-retry": "false", **super().headers()}


class PayloadTooLarge(InvalidRequest):
    """The request body exceeds the configured limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The request body has a content type or encoding that cannot be read."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(ServiceError):
    """The caller's own rate limit; carries `Retry-After`."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class BudgetExceeded(ServiceError):
    """The caller's own budget is spent."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class InternalError(ServiceError):
    """A fault of ours; shown with the request id and no detail."""


class Overloaded(ServiceError):
    """A bounded queue is full; carries `Retry-After`."""

    status = 503
    code = "overloaded"


class EngineRestarted(ServiceError):
    """The agent's engine died or stalled while it generated this answer."""

    status = 503
    code = "engine_restarted"


class NoCandidate(ServiceError):
    """No deployment may serve the request; the message lists the rejections."""

    status = 503
    code = "no_candidate"

    def __init__(self, message: str, *, missing_capability: bool = False) -> None:
        super().__init__(message)
        if missing_capability:
            self.status = 400
            self.type = "invalid_request_error"


class UpstreamError(ServiceError):
    """Base of everything that goes wrong at or towards a backend."""

    status = 502
    code: str | None = "upstream_unavailable"


class UpstreamUnavailable(UpstreamError):
    """Refused, reset, closed early, 5xx, or a reply that is not one."""

    retryable = True


class UpstreamTimeout(UpstreamError):
    """A connect, first-token, idle or total limit has passed."""

    status = 504
    code = "upstream_timeout"
    retryable = True


class UpstreamRateLimited(UpstreamError):
    """The backend's 429; `retry_after` holds what it asked for.

    Args:
        message: What is said of it.
        retry_after: Seconds after which a retry makes sense.
        theirs: The backend's `error` object, or as much of it as could be read.
    """

    status = 429
    type = "rate_limit_error"
    code = "upstream_rate_limited"
    retryable = True

    def __init__(
        self, message: str, *, retry_after: float | None = None, theirs: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        # Their words may name the account that the router uses; what kind of limit it is, clients need to know.
        super().__init__(message, retry_after=retry_after)
        if isinstance(kind := theirs.get("type"), str):
            self.type = kind
        if isinstance(code := theirs.get("code"), str):
            self.code = code


class UpstreamOverloaded(UpstreamError):
    """The backend's queue is full: it is well, and has no room; carries its `Retry-After`."""

    status = 503
    code = "overloaded"
    retryable = True
    spent = False
    """Whether it had begun to work on the request, and gave it up for another."""


class UpstreamStarting(UpstreamError):
    """The backend has nobody to serve the model yet: its first server is starting; carries `Retry-After`."""

    status = 503
    code = "model_starting"
    retryable = True


class UpstreamUnauthorized(UpstreamError):
    """The backend refuses *our* key; never shown to the caller as a 401."""

    code = "upstream_unauthorized"
    retryable = True


class UpstreamLacksModel(UpstreamUnavailable):
    """The backend does not serve the model that the router, not the caller, asked it for."""

    code = "upstream_lacks_model"


class UpstreamRejected(UpstreamError):
    """The backend's 4xx about the caller's request, passed through.

    Args:
        status: The backend's status.
        error: The backend's `error` object, or as much of it as could be read.
    """

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message") or f"The backend rejected the request ({status})."))
        self.error = error
        self.status = status
        self.type = str(error.get("type") or "invalid_request_error")
        self.code, self.param = (None if (v := error.get(name)) is None else str(v) for name in ("code", "param"))


class StreamInterrupted(UpstreamError):
    """The backend failed after output had reached the client."""

    code = "stream_interrupted"


class AllCandidatesFailed(UpstreamError):
    """Every attempt failed; looks like the most telling one.

    Args:
        failures: The attempts' errors in order, at least one.
    """

    code = "all_candidates_failed"

    def __init__(self, failures: list[ServiceError]) -> None:
        telling = max(failures, key=_telling)
        tries = "1 attempt" if len(failures) == 1 else f"{len(failures)} attempts"
        waits = [failure.retry_after for failure in failures if _telling(failure) == _telling(telling)]
        soonest = min((wait for wait in waits if wait is not None), default=None)
        super().__init__(f"No backend could answer ({tries}). {telling.message}", retry_after=soonest)
        self.failures = failures
        self.status = telling.status
        self.type = telling.type


def _telling(error: ServiceError) -> int:
    """Rank how much an error tells the caller: what it can act on, first."""
    order: tuple[type[ServiceError], ...] = (NotCarried, UpstreamUnauthorized, UpstreamUnavailable, UpstreamTimeout)
    return next((rank for rank, kind in enumerate(order) if isinstance(error, kind)), len(order))
