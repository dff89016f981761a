"""A Responses request: bytes in, the fields that routing needs out, the rest untouched; its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from router.types import Caller, InferenceRequest
from router.wire.parsing import invalid_field, read_fields
from router.wire.responses.tools import OPTIONAL_TOOLS
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest, ServiceError
from shared.sse import encode_event

__all__ = ["HOSTED_TOOLS", "error_event", "parse_responses"]

HOSTED_TOOLS = "hosted_tools"
"""The need of a request that offers hosted tools besides its own: it can do without, where nobody has them."""
_BRIDGED_TOOLS = frozenset({"function", "custom"})
"""The tools that chat can carry; all others run where the Responses API does."""
_BRIDGED_ITEMS = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "item_reference",
    }
)
_CHOICES = frozenset({"function", "custom", "allowed_tools"})
_NATIVE = frozenset({"native_responses"})
_ATTACHMENTS = {"input_image": "vision", "input_audio": "audio", "input_file": "files"}
_LOGPROBS = "message.output_text.logprobs"
_NULL = msgspec.Raw(b"null")
_QUOTE, _BRACKET = b'"['
Text = msgspec.Raw


class _Part(msgspec.Struct):
    type: str
    text: Text = _NULL
    file_id: Text = _NULL
    file_url: Text = _NULL


class _Item(msgspec.Struct):
    type: str | None = None
    role: str | None = None
    id: str | None = None
    content: Text = _NULL
    output: Text = _NULL
    arguments: Text = _NULL
    input: Text = _NULL


class _Inner(msgspec.Struct):
    type: str


class _Tool(msgspec.Struct):
    type: str
    tools: list[_Inner] | None = None

    @property
    def bridged(self) -> bool:
        """Whether chat can carry it."""
        if self.type == "namespace":
            return all(inner.type in _BRIDGED_TOOLS for inner in self.tools or ())
        return self.type in _BRIDGED_TOOLS


class _Format(msgspec.Struct):
    type: str | None = None


class _TextConfig(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class _Responses(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: str | list[_Item] | None = None
    instructions: str | list[msgspec.Raw] | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, msgspec.Raw] | None = None
    prompt: dict[str, msgspec.Raw] | None = None
    include: list[str] | None = None
    metadata: dict[str, msgspec.Raw] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_tool_calls: Annotated[int, msgspec.Meta(ge=1)] | None = None
    parallel_tool_calls: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    reasoning: _Reasoning | None = None
    text: _TextConfig | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Tool | None = None
    truncation: str | None = None
    router: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


_RESPONSES = msgspec.json.Decoder(_Responses)
_PARTS = msgspec.json.Decoder(list[_Part])


class _Measure:
    """What the texts and attachments of a request come to."""

    def __init__(self) -> None:
        self.text = 0
        self.attachments = 0
        self.needs: frozenset[str] = frozenset()

    def item(self, item: _Item, place: str) -> None:
        """Count one input item."""
        kind = item.type or ("message" if item.role is not None or item.id is None else "item_reference")
        if kind not in _BRIDGED_ITEMS:
            self.needs |= _NATIVE
        if kind == "message":
            if item.role is None:
                raise InvalidRequest(f"Missing required parameter: '{place}.role'.", param=f"{place}.role")
            if bytes(item.content) == b"null":
                raise InvalidRequest(f"Missing required parameter: '{place}.content'.", param=f"{place}.content")
            self._said(item.content, f"{place}.content")
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._said(item.output, f"{place}.output")
        self.text += _size(item.arguments) + _size(item.input)

    def _said(self, said: msgspec.Raw, param: str) -> None:
        view = memoryview(said)
        first = view[0]
        if first == _QUOTE:
            self.text += len(view) - 2
        elif first == _BRACKET:
            try:
                parts = _PARTS.decode(view)
            except msgspec.ValidationError as error:
                inner = invalid_field(str(error))
                inner.param = f"{param}{inner.param or ''}"
                raise InvalidRequest(f"Invalid value for '{inner.param}': {error}.", param=inner.param) from error
            for index, part in enumerate(parts):
                self._part(part, f"{param}[{index}]")
        elif bytes(said) != b"null":
            raise InvalidRequest(f"Invalid value for '{param}': expected a string or an array.", param=param)

    def _part(self, part: _Part, param: str) -> None:
        self.text += _size(part.text)
        if part.type in ("input_text", "output_text") and memoryview(part.text)[0] != _QUOTE:
            raise InvalidRequest(f"Invalid value for '{param}.text': expected a string.", param=f"{param}.text")
        need = _ATTACHMENTS.get(part.type)
        if need is not None:
            self.attachments += 1
            self.needs |= {need}
            # Chat knows images by URL only, and files by id or content.
            elsewhere = part.file_id if part.type == "input_image" else part.file_url
            if bytes(elsewhere) != b"null":
                self.needs |= _NATIVE


def _size(text: msgspec.Raw) -> int:
    """Return the length of a text as it is written; 0 where it is none."""
    view = memoryview(text)
    return len(view) - 2 if view[0] == _QUOTE else 0


def parse_responses(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
    """Return the request that `body` and the client's headers make.

    Where only a backend's own Responses API can serve it (hosted tools, background, conversations, templates), it
    needs `native_responses`.

    Raises:
        InvalidRequest: The body is not JSON, not UTF-8, or a field has a wrong type or value; the
            error names the field.
    """
    fields, body, spans = read_fields(_RESPONSES, body)
    if fields.input is None and not (fields.previous_response_id or fields.prompt or fields.conversation):
        raise InvalidRequest("Missing required parameter: 'input'.", param="input")
    if fields.previous_response_id and fields.conversation:
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' cannot be used together.", param="previous_response_id"
        )
    measure = _Measure()
    if isinstance(fields.input, str):
        measure.text = len(fields.input.encode())
    for index, item in enumerate(fields.input if isinstance(fields.input, list) else ()):
        measure.item(item, f"input[{index}]")
    if isinstance(fields.instructions, str):
        measure.text += len(fields.instructions.encode())
    return InferenceRequest(
        id=request_id,
        endpoint="responses",
        model=fields.model,
        stream=bool(fields.stream),
        body=body,
        spans=spans,
        caller=caller,
        wishes=parse_wishes(headers, fields.router or None),
        headers=headers,
        usage_asked=True,
        max_tokens=fields.max_output_tokens,
        text_bytes=measure.text,
        attachments=measure.attachments,
        needs=_needs(fields, measure.needs),
    )


def _needs(fields: _Responses, needs: frozenset[str]) -> frozenset[str]:
    needs |= {"responses"}
    tools: Sequence[_Tool] = fields.tools or ()
    if tools:
        needs |= {"tools"}
    if fields.top_logprobs or _LOGPROBS in (fields.include or ()):
        needs |= {"logprobs"}
    if fields.text is not None and fields.text.format is not None and fields.text.format.type not in (None, "text"):
        needs |= {"json_schema"}
    choice = fields.tool_choice
    if (
        fields.background
        or fields.conversation
        or fields.prompt
        or isinstance(fields.instructions, list)
        or (isinstance(choice, _Tool) and choice.type not in _CHOICES)
    ):
        needs |= _NATIVE
    elsewhere = [tool.type for tool in tools if not tool.bridged]
    if elsewhere:
        own = len(elsewhere) < len(tools) and all(kind.startswith(OPTIONAL_TOOLS) for kind in elsewhere)
        needs |= {HOSTED_TOOLS} if own else _NATIVE
    return needs


def error_event(error: ServiceError) -> bytes:
    """Return the event that tells an error in a stream, and ends it.

    Clients read it in two ways: the documented one keeps what it says beside `type`, others look for an `error`
    object, which makes OpenAI's Python library raise. Both find what they look for.
    """
    told = error.body()["error"]
    event = {
        "type": "error",
        "code": told["code"],
        "message": told["message"],
        "param": told["param"],
        "sequence_number": 0,
        "error": told,
    }
    return encode_event(msgspec.json.encode(event), "error")
