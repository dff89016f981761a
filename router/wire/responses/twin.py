"""A Responses request as a chat request, and what is lost on the way."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import structs

from router.types import InferenceRequest
from router.wire.fields import index_fields, raw_fields
from router.wire.responses.messages import Messages
from router.wire.responses.tools import Toolbox, Tools
from shared.errors import InvalidRequest

__all__ = ["Twin", "chat_twin"]

_NULL = msgspec.Raw(b"null")
_Object = dict[str, msgspec.Raw]
_TEXT = msgspec.json.Decoder(str)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(_Object)
_OBJECTS = msgspec.json.Decoder(list[_Object])
_TEXTS = msgspec.json.Decoder(list[str])
_SAME = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "stop",
    "moderation",
)
"""Fields that chat has too."""
_OURS = (
    "model",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "store",
    "metadata",
    "previous_response_id",
    "router",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "include",
    "top_logprobs",
    "max_output_tokens",
)
"""Fields that have a rule of their own, or that the router keeps itself."""
_DEFAULTS = {
    "truncation": (b'"disabled"',),
    "background": (b"false",),
    "context_management": (b"[]",),
    "max_tool_calls": (),
}
"""Values that ask for nothing."""
_LOGPROBS = "message.output_text.logprobs"
_OPTION = "include_obfuscation"


class Twin(msgspec.Struct, frozen=True):
    """A chat request, and what is to be known of its functions when they are called."""

    request: InferenceRequest
    toolbox: Toolbox


class _Translation:
    """One request on its way to chat."""

    def __init__(self, request: InferenceRequest) -> None:
        self.changes: list[str] = [*request.changes]
        self.tools = Tools(self.change)
        self.chat: dict[str, Any] = {}
        self._fields = raw_fields(request.body)
        self._stream = request.stream

    def change(self, told: str) -> None:
        if told not in self.changes:
            self.changes.append(told)

    def _given(self, name: str) -> msgspec.Raw | None:
        raw = self._fields.get(name, _NULL)
        return None if bytes(memoryview(raw)[:4]) == b"null" else raw

    def body(self) -> bytes:
        self.chat["model"] = self._fields["model"]
        self.chat["messages"] = self._messages()
        self._tools()
        self._text()
        self._reasoning()
        self._include()
        if (most := self._given("max_output_tokens")) is not None:
            self.chat["max_completion_tokens"] = most
        for name in _SAME:
            if (value := self._given(name)) is not None:
                self.chat[name] = value
        self._drop_idle()
        if self._stream:
            self.chat["stream"] = True
            self.chat["stream_options"] = {"include_usage": True}
        self._rest()
        return msgspec.json.encode(self.chat)

    def _messages(self) -> list[dict[str, Any]]:
        messages = Messages(self.change)
        if (instructions := self._given("instructions")) is not None:
            messages.instruct(_TEXT.decode(instructions))
        given = self._given("input")
        if given is not None and bytes(memoryview(given)[:1]) == b'"':
            messages.say(given)
        elif given is not None:
            for index, item in enumerate(_ITEMS.decode(given)):
                messages.take(item, f"input[{index}]")
        if not messages.messages:
            raise InvalidRequest("The request holds nothing to answer.", param="input")
        return messages.messages

    def _tools(self) -> None:
        if (given := self._given("tools")) is not None:
            self.tools.take(given)
        if (choice := self._given("tool_choice")) is not None:
            self.chat["tool_choice"] = self.tools.choose(choice)
        if self.tools.functions:
            self.chat["tools"] = self.tools.functions

    def _drop_idle(self) -> None:
        """Leave out what steers tools where there are none: there it says nothing, and some servers refuse it."""
        if "tools" not in self.chat:
            self.chat.pop("tool_choice", None)
            self.chat.pop("parallel_tool_calls", None)

    def _text(self) -> None:
        text = _OBJECT.decode(self._given("text") or b"{}")
        if bytes(text.get("verbosity", _NULL)) != b"null":
            self.chat["verbosity"] = text["verbosity"]
        form = text.get("format", _NULL)
        if bytes(form) == b"null":
            return
        fields = _OBJECT.decode(form)
        kind = bytes(fields.pop("type", _NULL))
        if kind == b'"json_schema"':
            self.chat["response_format"] = {"type": "json_schema", "json_schema": fields}
        elif kind not in (b"null", b'"text"'):
            self.chat["response_format"] = form

    def _reasoning(self) -> None:
        for name, value in _OBJECT.decode(self._given("reasoning") or b"{}").items():
            if bytes(value) == b"null":
                continue
            if name == "effort":
                self.chat["reasoning_effort"] = value
            else:
                self.change(f"reasoning.{name} dropped")

    def _include(self) -> None:
        most = self._given("top_logprobs")
        asked = _TEXTS.decode(self._given("include") or b"[]")
        if _LOGPROBS in asked or bytes(most or b"0") != b"0":
            self.chat["logprobs"] = True
            if most is not None:
                self.chat["top_logprobs"] = most
        for name in asked:
            if name != _LOGPROBS:
                self.change(f"include {name} dropped")

    def _rest(self) -> None:
        """Tell what has no place in a chat request."""
        options = _OBJECT.decode(self._given("stream_options") or b"{}")
        if bytes(options.get(_OPTION, b"false")) == b"true":
            self.change(f"stream_options.{_OPTION} dropped")
        for name in self._fields:
            value = self._given(name)
            if name in _SAME or name in _OURS or value is None or bytes(value) in _DEFAULTS.get(name, ()):
                continue
            self.change(f"{name} dropped")


def chat_twin(request: InferenceRequest) -> Twin:
    """Return the chat request that asks for the same.

    Raises:
        InvalidRequest: Something in it cannot be read, or has no form in chat.
    """
    translation = _Translation(request)
    try:
        body, spans = index_fields(translation.body())
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request cannot be read: {error}.") from error
    needs: frozenset[str] = (request.needs - {"responses"}) | {"chat"}
    twin = structs.replace(
        request,
        endpoint="chat",
        body=body,
        spans=spans,
        usage_asked=True,
        needs=needs,
        changes=tuple(translation.changes),
    )
    return Twin(twin, translation.tools.toolbox)
