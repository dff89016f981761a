"""A Messages request: bytes in, the fields that routing needs out, the rest untouched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from router.types import Caller, InferenceRequest
from router.wire.parsing import invalid_field, read_fields
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest

__all__ = ["parse_count_tokens", "parse_messages"]

_QUOTE, _BRACKET = b'"['
_NATIVE = "native_messages"
"""The need of what no other dialect has words for: it must stay with a backend that speaks this one."""
_NOTHING = (b"null", b"[]", b"{}")


class _Source(msgspec.Struct):
    type: str = ""


class _Block(msgspec.Struct):
    type: str
    text: msgspec.Raw = msgspec.Raw(b"")
    source: msgspec.Raw = msgspec.Raw(b"null")
    content: msgspec.Raw = msgspec.Raw(b"null")
    input: msgspec.Raw = msgspec.Raw(b"")


class _Turn(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Tool(msgspec.Struct):
    type: str | None = None


class _OutputConfig(msgspec.Struct):
    format: msgspec.Raw = msgspec.Raw(b"null")


class _Fields(msgspec.Struct, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    system: msgspec.Raw = msgspec.Raw(b"null")
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: dict[str, msgspec.Raw] | None = None
    thinking: dict[str, msgspec.Raw] | None = None
    metadata: dict[str, msgspec.Raw] | None = None
    mcp_servers: msgspec.Raw = msgspec.Raw(b"null")
    output_config: _OutputConfig | None = None
    output_format: msgspec.Raw = msgspec.Raw(b"null")
    router: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class _Messages(_Fields, kw_only=True):
    max_tokens: Annotated[int, msgspec.Meta(ge=0)]


class _CountTokens(_Fields, kw_only=True):
    max_tokens: int | None = None


_MESSAGES = msgspec.json.Decoder(_Messages)
_COUNT_TOKENS = msgspec.json.Decoder(_CountTokens)
_SOURCE = msgspec.json.Decoder(_Source)
_BLOCKS = msgspec.json.Decoder(list[_Block])


class _Measure:
    """What a prompt holds: bytes of text, attachments, and what they need."""

    def __init__(self) -> None:
        self.text = 0
        self.attachments = 0
        self.needs: set[str] = set()

    def content(self, raw: msgspec.Raw, param: str) -> None:
        """Add a string, or a list of blocks.

        Raises:
            InvalidRequest: It is neither.
        """
        view = memoryview(raw)
        if view[0] == _QUOTE:
            self.text += len(view) - 2
            return
        if view[0] != _BRACKET:
            if bytes(view) == b"null":
                return
            raise InvalidRequest(f"Invalid value for '{param}': expected a string or an array.", param=param)
        try:
            blocks = _BLOCKS.decode(raw)
        except msgspec.ValidationError as error:
            inner = invalid_field(str(error))
            path = param + (inner.param or "")
            raise InvalidRequest(f"Invalid value for '{path}': {error}.", param=path) from error
        for index, block in enumerate(blocks):
            self._block(block, f"{param}[{index}]")

    def _block(self, block: _Block, param: str) -> None:
        self.text += max(0, len(memoryview(block.text)) - 2) + len(memoryview(block.input))
        kind = block.type
        if kind in ("image", "document"):
            self.attachments += 1
            source = _source_type(block.source, f"{param}.source")
            if source == "file" or (kind == "document" and source == "url"):
                self.needs.add(_NATIVE)
            if kind == "image":
                self.needs.add("vision")
            elif source in ("base64", "url", "file"):
                self.needs.add("files")
        elif kind == "container_upload":
            self.needs.add(_NATIVE)
        elif kind in ("tool_result", "search_result"):
            self.content(block.content, f"{param}.content")


def _source_type(raw: msgspec.Raw, param: str) -> str:
    try:
        return _SOURCE.decode(raw).type
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid value for '{param}': {error}.", param=param) from error


def parse_messages(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
    """Return the request that a `/v1/messages` body and the client's headers make.

    Raises:
        InvalidRequest: The body is not JSON, not UTF-8, or a field has a wrong type or value; the
            error names the field.
    """
    fields, body, spans = read_fields(_MESSAGES, body)
    measure, needs = _measured(fields)
    return InferenceRequest(
        id=request_id,
        endpoint="messages",
        model=fields.model,
        stream=bool(fields.stream),
        body=body,
        spans=spans,
        caller=caller,
        wishes=parse_wishes(headers, fields.router or None),
        headers=headers,
        usage_asked=True,  # each stream of this dialect tells it
        # Never from the cache: it keeps chat answers.
        deterministic=False,
        max_tokens=fields.max_tokens or None,
        text_bytes=measure.text,
        attachments=measure.attachments,
        needs=frozenset({"messages", *needs}),
    )


def parse_count_tokens(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
    """Return the request that a `/v1/messages/count_tokens` body makes: a Messages body that need not be whole.

    Raises:
        InvalidRequest: As in `parse_messages`.
    """
    fields, body, spans = read_fields(_COUNT_TOKENS, body)
    measure, _ = _measured(fields)
    return InferenceRequest(
        id=request_id,
        endpoint="count_tokens",
        model=fields.model,
        stream=False,
        body=body,
        spans=spans,
        caller=caller,
        wishes=parse_wishes(headers, fields.router or None),
        headers=headers,
        text_bytes=measure.text,
        attachments=measure.attachments,
        # Whoever could answer the message: one that cannot count is estimated for.
        needs=frozenset({"messages"}),
    )


def _measured(fields: _Fields) -> tuple[_Measure, set[str]]:
    measure = _Measure()
    measure.content(fields.system, "system")
    for index, turn in enumerate(fields.messages):
        measure.content(turn.content, f"messages[{index}].content")
    needs = measure.needs
    for tool in fields.tools or ():
        needs.add("tools")
        if tool.type not in (None, "custom"):
            needs.add(_NATIVE)
    if bytes(fields.mcp_servers) not in _NOTHING:
        needs.add(_NATIVE)
    formats = (fields.output_format, fields.output_config.format if fields.output_config else b"null")
    if any(bytes(shape) not in _NOTHING for shape in formats):
        needs.add("json_schema")
    return measure, needs
