"""Endpoints that pass by model: the request's bytes but for the model's name, and whatever comes back.

Sound and images in and out, moderation, reranking. A request is JSON or a form; an answer is JSON, text, sound,
or events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from router.types import Caller, Chunk, Completion, Endpoint, InferenceRequest
from router.wire.failures import error_event
from router.wire.fields import Splice, index_fields, insert_field, remove_field, splice_parts, with_model
from router.wire.forms import add_field, is_form, read_form
from router.wire.parsing import read_fields
from router.wire.usage import read_usage
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest, UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["PassedBytes", "PassedEvents", "Place", "parse_passed", "passed_answer", "passed_parts"]

_NULL = msgspec.Raw(b"null")
_NOTHING = (b"null", b'""', b"[]", b"{}")
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ENDS = (".done", ".completed")


class Place(NamedTuple):
    """One route.

    Attributes:
        endpoint: What it belongs to.
        path: Behind the backend's base URL.
        needs: Capabilities of a model that serves it.
        streams: Whether its answers come as they are made: always, or where the client asks for it.
        names_model: Whether a request must name a model.
        required: A field that must be there, besides.
    """

    endpoint: Endpoint
    path: str
    needs: frozenset[str]
    streams: Literal["always", "asked", "never"] = "asked"
    names_model: bool = True
    required: str | None = None


class _Fields(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    router: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class _Answer(msgspec.Struct):
    type: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


_REQUEST = msgspec.json.Decoder(_Fields)
_ANSWER = msgspec.json.Decoder(_Answer)


def parse_passed(
    place: Place, body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]
) -> InferenceRequest:
    """Return the request that `body` and the client's headers make at a place.

    Its model is empty where the client names none and need not.

    Raises:
        InvalidRequest: The body is neither JSON nor a form, or a field that is needed is missing or wrong.
    """
    content_type = headers.get("content-type", "")
    form = is_form(content_type)
    if form:
        spans, fields = _form(body, content_type)
    else:
        fields, body, spans = read_fields(_REQUEST, body)
    if place.required is not None and not form and place.required not in spans:
        raise InvalidRequest(f"Missing required parameter: '{place.required}'.", param=place.required)
    if fields.model == "":
        raise InvalidRequest("Invalid value for 'model': expected a name.", param="model")
    if fields.model is None and place.names_model:
        raise InvalidRequest("Missing required parameter: 'model'.", param="model")
    wordy = place.endpoint in ("moderations", "rerank")
    return InferenceRequest(
        id=request_id,
        endpoint=place.endpoint,
        model=fields.model or "",
        stream=place.streams == "always" or (place.streams == "asked" and bool(fields.stream)),
        body=body,
        spans=spans,
        caller=caller,
        wishes=parse_wishes(headers, fields.router or None),
        headers=headers,
        max_tokens=0 if wordy else None,
        text_bytes=len(body) if wordy else 0,
        longest_text_bytes=0,
        needs=place.needs,
        path=place.path,
        content_type=content_type if form else "application/json",
    )


def _form(body: bytes, content_type: str) -> tuple[Mapping[str, tuple[int, int]], _Fields]:
    spans = read_form(body, content_type)
    try:
        told = {name: body[slice(*spans[name])].decode() for name in ("model", "stream") if name in spans}
    except UnicodeDecodeError as error:
        raise InvalidRequest("Invalid value for 'model': expected text in UTF-8.", param="model") from error
    return spans, _Fields(told.get("model"), told.get("stream", "").strip().lower() in ("true", "1"))


def passed_parts(request: InferenceRequest, upstream_model: str) -> Sequence[bytes | memoryview]:
    """Return the client's bytes with the backend's model name, without the `router` object of a JSON body."""
    body, spans = request.body, request.spans
    form = is_form(request.content_type)
    name = upstream_model.encode() if form else msgspec.json.encode(upstream_model)
    change: Splice
    if "model" in spans:
        change = (*spans["model"], name)
    elif form:
        change = add_field(body, request.content_type, "model", name)
    else:
        change = insert_field(spans, "model", name)
    parts = splice_parts(body, [change])
    if "router" in spans and not form:
        body, spans = index_fields(b"".join(parts))
        parts = splice_parts(body, [remove_field(body, spans, "router")])
    return parts


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def passed_answer(body: bytes, content_type: str, reply_model: str | None) -> Completion:
    """Return a whole answer, its bytes untouched but for a JSON answer's `model` where `reply_model` is set.

    Raises:
        UpstreamUnavailable: It is a web page, or JSON that is none.
        ServiceError: It is an error in disguise.
    """
    kind = _kind(content_type)
    told = content_type.encode("latin-1") or b"application/octet-stream"
    if kind == "text/html":
        raise UpstreamUnavailable("The backend answered with a web page.")
    if kind != "application/json":
        return Completion(body, content_type=told)
    try:
        parsed = _ANSWER.decode(body)
        if reply_model is not None:
            body = with_model(body, reply_model)
    except msgspec.ValidationError:
        return Completion(body, content_type=told)  # JSON, if no object: some rerankers answer with a list
    except _FAULTS as error:
        raise UpstreamUnavailable("The backend's answer is not valid JSON.") from error
    if bytes(parsed.error) not in _NOTHING:
        raise error_event(parsed.error)
    return Completion(body, read_usage(parsed.usage), content_type=told)


class PassedBytes:
    """A stream of sound, passed on as it comes; a `Decoder`."""

    failure = None
    done = False

    def __init__(self) -> None:
        self._begun = False

    def feed(self, data: bytes) -> Sequence[Chunk]:
        """Return a piece."""
        self._begun = True
        return (Chunk(data, output=True),)

    def end(self) -> Sequence[Chunk]:
        """Return the end; see `Decoder.end`.

        Raises:
            UpstreamUnavailable: Nothing came before it.
        """
        if not self._begun:
            raise UpstreamUnavailable("The backend's answer is empty.")
        return (Chunk(b"", done=True),)


class PassedEvents:
    """Events of sound or images, passed on as they come; a `Translation`."""

    def __init__(self) -> None:
        self._typed = False
        self._ended = False

    def feed(self, event: SSEEvent) -> Sequence[Chunk]:
        """Return the chunk for one event.

        Raises:
            ServiceError: It says that the backend failed.
        """
        data = event.data
        if data is None or not data.strip():
            return ()
        if data.strip() == b"[DONE]":
            return (Chunk(DONE, done=True),)
        try:
            parsed = _ANSWER.decode(data)
        except _FAULTS as error:
            raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
        kind = bytes(parsed.type).strip(b'"').decode("utf-8", "replace")
        if bytes(parsed.error) not in _NOTHING:
            raise error_event(parsed.error)
        if "error" in (kind, event.event):
            raise error_event(data)
        self._typed = self._typed or kind != "null"
        self._ended = self._ended or kind.endswith(_ENDS)
        line = data.replace(b"\n", b" ")  # line breaks in JSON are white space
        return (Chunk(encode_event(line, event.event), output=True, usage=read_usage(parsed.usage)),)

    def close(self) -> Sequence[Chunk]:
        """Return the end: these streams have no `[DONE]`, but a last event.

        Raises:
            UpstreamUnavailable: It did not come.
        """
        if self._typed and not self._ended:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        return (Chunk(b"", done=True),)
