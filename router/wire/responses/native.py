"""The Responses API of a backend: bytes pass in both directions, and are looked at for what routing needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from router.types import Chunk, Completion, InferenceRequest, Usage
from router.wire.failures import aborted, rejected
from router.wire.failures import error_event as told_error
from router.wire.fields import Splice, index_fields, remove_field, splice, splice_parts
from shared.errors import ServiceError, UpstreamUnavailable
from shared.logs import redact
from shared.sse import SSEEvent, encode_event

__all__ = ["EXPANDED", "NativeStream", "native_parts", "parse_native"]

EXPANDED = "previous_response_id expanded"
"""The change of a request whose `input` holds the whole conversation already."""
_NULL = msgspec.Raw(b"null")
_Count = Annotated[int, msgspec.Meta(ge=0)]
_CALLERS = ("invalid_", "image_", "unsupported_image", "empty_image", "failed_to_download_image")
"""How the codes of errors begin that a request brings about itself."""
_ENDED = {"response.completed": "stop", "response.incomplete": "length", "response.failed": "error"}


class _InputDetails(msgspec.Struct):
    cached_tokens: _Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Whole(msgspec.Struct):
    object: str | None = None
    status: str | None = None
    output: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL


class _Event(msgspec.Struct):
    type: str | None = None
    response: msgspec.Raw = _NULL


_WHOLE = msgspec.json.Decoder(_Whole)
_EVENT = msgspec.json.Decoder(_Event)
_USAGE = msgspec.json.Decoder(_Usage)
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def native_parts(request: InferenceRequest, upstream_model: str) -> Sequence[bytes | memoryview]:
    """Return the client's bytes with the backend's model name, without what only the router understands."""
    body, spans = request.body, request.spans
    splices: list[Splice] = [(*spans["model"], msgspec.json.encode(upstream_model))]
    ours = ["router"] if "router" in spans else []
    if EXPANDED in request.changes and "previous_response_id" in spans:
        ours.append("previous_response_id")
    if not ours:
        return splice_parts(body, splices)
    body = splice(body, splices)
    for name in ours:
        body, spans = index_fields(body)
        body = splice(body, [remove_field(body, spans, name)])
    return (body,)


def parse_native(body: bytes, reply_model: str | None) -> Completion:
    """Return a whole answer, its bytes untouched but for `model` where `reply_model` is set.

    Raises:
        UpstreamUnavailable: The body is no response.
        ServiceError: The body is an error in disguise, or a response that failed.
    """
    try:
        body.isascii() or body.decode()
        parsed = _WHOLE.decode(body)
        if reply_model is not None:
            body = _with_model(body, reply_model)
    except _FAULTS as error:
        raise UpstreamUnavailable("The backend's answer is not a valid response.") from error
    if bytes(parsed.error) != b"null" and parsed.status in (None, "failed"):
        raise _failed(parsed.error)
    if parsed.status == "cancelled":
        raise aborted()  # nobody asked for that: the backend is shutting down
    if parsed.object != "response" or not bytes(parsed.output).startswith(b"["):
        raise UpstreamUnavailable("The backend's answer is not a valid response.")
    return Completion(body, _read_usage(parsed.usage), "length" if parsed.status == "incomplete" else "stop")


class NativeStream:
    """The events of one backend's stream, as they came; a `Translation`.

    Args:
        reply_model: What responses say in `model`; None keeps the backend's own.
    """

    def __init__(self, reply_model: str | None) -> None:
        self._reply_model = reply_model
        self._began = False
        self._ended = False

    def feed(self, event: SSEEvent) -> tuple[Chunk, ...]:
        """Return the chunk for one event.

        Raises:
            UpstreamUnavailable: The event is no event of a response.
            ServiceError: The event says that the backend failed.
        """
        data = event.data
        if data is None:
            return (Chunk(event.raw),)
        try:
            data.isascii() or data.decode()
            parsed = _EVENT.decode(data)
        except _FAULTS as error:
            if not data.strip():
                return ()  # a sign of life that strict clients would take for broken JSON
            if data.strip() == b"[DONE]":
                return self.close()
            raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
        kind = parsed.type or event.event or ""
        if kind == "error" or not kind:
            raise _failed_event(data)
        if kind in _ENDED:
            return (self._end(event, data, kind, parsed.response),)
        output = kind == "response.output_item.done" or kind.endswith((".delta", ".partial_image"))
        self._began = self._began or output
        return (Chunk(self._told(event, data, parsed.response), output),)

    def _end(self, event: SSEEvent, data: bytes, kind: str, response: msgspec.Raw) -> Chunk:
        try:
            whole = _WHOLE.decode(response)
        except _FAULTS as error:
            raise UpstreamUnavailable("The backend's stream ends in an event that is not valid.") from error
        if kind == "response.failed" and not self._began:
            raise _failed(whole.error)
        if whole.status == "cancelled":
            raise aborted()
        self._ended = True
        raw = self._told(event, data, response)
        if kind == "response.failed":
            raw = redact(raw.decode()).encode()  # a backend's account of its failure may quote the key it got
        return Chunk(raw, False, _read_usage(whole.usage), _ENDED[kind], True)

    def _told(self, event: SSEEvent, data: bytes, response: msgspec.Raw) -> bytes:
        """Return an event as the client gets it: as it came, unless it names a model that is to be another."""
        if self._reply_model is None or bytes(memoryview(response)[:1]) != b"{":
            return event.raw
        named = _with_model(bytes(response), self._reply_model)
        data, spans = index_fields(data)
        return encode_event(splice(data, [(*spans["response"], named)]), event.event)

    def close(self) -> tuple[Chunk, ...]:
        """Return nothing: what ends an answer has come, or the answer is not whole.

        Raises:
            UpstreamUnavailable: The answer was not complete.
        """
        if not self._ended:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        return ()


def _with_model(body: bytes, model: str) -> bytes:
    body, spans = index_fields(body)
    if "model" not in spans:
        return body
    return splice(body, [(*spans["model"], msgspec.json.encode(model))])


def _read_usage(raw: msgspec.Raw) -> Usage | None:
    """Return the reported token counts, or None where nothing was reported that can be read."""
    if not bytes(raw).startswith(b"{"):
        return None
    try:
        usage = _USAGE.decode(raw)
    except msgspec.DecodeError:
        return None  # an answer is not lost to a count
    taken, given = usage.input_tokens or 0, usage.output_tokens or 0
    details, more = usage.input_tokens_details, usage.output_tokens_details
    return Usage(
        prompt_tokens=taken,
        completion_tokens=given,
        cached_tokens=min((details.cached_tokens or 0) if details else 0, taken),
        reasoning_tokens=min((more.reasoning_tokens or 0) if more else 0, given),
    )


def _failed_event(data: bytes) -> ServiceError:
    """Return what an event means that tells an error, beside its type or in an `error` object."""
    try:
        told: Any = msgspec.json.decode(data)
    except _FAULTS:
        told = None
    if not isinstance(told, dict):
        return told_error(None)
    inner = told.get("error")
    if isinstance(inner, (dict, str)):
        return _failed(msgspec.json.encode(inner))
    if told.get("type") != "error":
        return UpstreamUnavailable("The backend's stream holds an event without a type.")
    told = {key: value for key, value in told.items() if key != "type"}
    return _failed(msgspec.json.encode(told))


def _failed(raw: msgspec.Raw | bytes) -> ServiceError:
    try:
        detail = msgspec.json.decode(bytes(raw))
    except _FAULTS:
        detail = None
    if isinstance(detail, dict) and str(detail.get("code") or "").startswith(_CALLERS):
        if detail["code"] != "invalid_api_key":
            return rejected(400, detail)
    elif detail is None:
        return UpstreamUnavailable("The backend reported a failure without a reason.")
    return told_error(bytes(raw))
