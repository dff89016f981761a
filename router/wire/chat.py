"""An OpenAI chat request: bytes in, the fields that routing needs out, the rest untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from router.types import Caller, InferenceRequest
from router.wire.fields import Splice, index_fields, insert_field, remove_field, splice, splice_parts
from router.wire.parsing import invalid_field, read_fields
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest

__all__ = ["forwarded_parts", "parse_chat"]

_CHAT_ONLY = frozenset({"chat"})
_QUOTE, _BRACKET = b'"['
_ATTACHMENTS = {
    "image_url": "vision",
    "image": "vision",
    "input_image": "vision",
    "input_audio": "audio",
    "audio": "audio",
    "file": "files",
}


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Chat(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | msgspec.UnsetType | None = msgspec.UNSET
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: dict[str, msgspec.Raw] | None = None
    router: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class _Part(msgspec.Struct):
    type: str
    text: msgspec.Raw = msgspec.Raw(b"")


_CHAT = msgspec.json.Decoder(_Chat)
_PARTS = msgspec.json.Decoder(list[_Part])


def parse_chat(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
    """Return the request that `body` and the client's headers make.

    Raises:
        InvalidRequest: The body is not JSON, not UTF-8, or a field has a wrong type or value; the
            error names the field.
    """
    fields, body, spans = read_fields(_CHAT, body)
    text_bytes, attachments, needs = _measure(fields.messages)
    needs = _needs(fields, needs)
    options = fields.stream_options
    # By position: by name it takes twice as long.
    return InferenceRequest(
        request_id,
        "chat",
        fields.model,
        bool(fields.stream),
        body,
        spans,
        caller,
        parse_wishes(headers, fields.router or None),
        headers,
        bool(options and options.include_usage),  # usage_asked
        fields.temperature == 0 and fields.n in (None, 1),  # deterministic
        fields.max_completion_tokens or fields.max_tokens,
        fields.n or 1,  # choices
        text_bytes,
        attachments,
        needs,
    )


def _measure(messages: list[_Message]) -> tuple[int, int, frozenset[str]]:
    """Return the bytes of text, the number of attachments, and what the attachments need."""
    text = 0
    attachments = 0
    needs = _CHAT_ONLY
    for index, message in enumerate(messages):
        view = memoryview(message.content)
        first = view[0]
        if first == _QUOTE:
            text += len(view) - 2
            continue
        content = bytes(view)
        if first == _BRACKET:
            try:
                parts = _PARTS.decode(content)
            except msgspec.ValidationError as error:
                inner = invalid_field(str(error))
                param = f"messages[{index}].content{inner.param or ''}"
                raise InvalidRequest(f"Invalid value for '{param}': {error}.", param=param) from error
            for part in parts:
                text += max(0, len(memoryview(part.text)) - 2)
                if part.type in _ATTACHMENTS:
                    attachments += 1
                    needs |= {_ATTACHMENTS[part.type]}
        elif content != b"null":
            param = f"messages[{index}].content"
            raise InvalidRequest(f"Invalid value for '{param}': expected a string or an array.", param=param)
    return text, attachments, needs


def _needs(fields: _Chat, needs: frozenset[str]) -> frozenset[str]:
    if fields.tools or fields.functions:
        needs |= {"tools"}
    if fields.logprobs:
        needs |= {"logprobs"}
    if fields.response_format is not None:
        kind = bytes(fields.response_format.get("type", msgspec.Raw(b'"text"')))
        if kind != b'"text"':
            needs |= {"json_schema"}
    return needs


def forwarded_parts(request: InferenceRequest, upstream_model: str) -> Sequence[bytes | memoryview]:
    """Return the client's bytes with the backend's model name, without the `router` object.

    They come in parts, which copy nothing of a long body. A stream is asked for its usage, which
    accounting needs; the usage chunk is hidden from a client that did not ask.
    """
    body, spans = request.body, request.spans
    splices: list[Splice] = [(*spans["model"], msgspec.json.encode(upstream_model))]
    if request.stream and not request.usage_asked:
        if "stream_options" in spans:
            start, end = spans["stream_options"]
            splices.append((start, end, _asking_for_usage(body[start:end])))
        else:
            splices.append(insert_field(spans, "stream_options", _asking_for_usage(None)))
    parts = splice_parts(body, splices)
    if "router" in spans:
        body, spans = index_fields(b"".join(parts))
        parts = splice_parts(body, [remove_field(body, spans, "router")])
    return parts


def _asking_for_usage(options: bytes | None) -> bytes:
    if options in (None, b"null"):
        return b'{"include_usage":true}'
    options, spans = index_fields(options or b"")
    if "include_usage" in spans:
        return splice(options, [(*spans["include_usage"], b"true")])
    return splice(options, [insert_field(spans, "include_usage", b"true")]) if spans else b'{"include_usage":true}'
