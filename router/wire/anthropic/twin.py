"""A Messages request as a chat request, and what it lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from router.types import InferenceRequest
from router.wire.anthropic.thinking import effort_of
from router.wire.fields import index_fields, raw_fields
from shared.errors import InvalidRequest

__all__ = ["chat_twin"]

_NULL = msgspec.Raw(b"null")
_DECODE: Callable[[bytes | msgspec.Raw], Any] = msgspec.json.Decoder().decode
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BLOCKS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_TURNS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_KNOWN = frozenset(
    (
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "temperature",
        "top_p",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "metadata",
        "router",
    )
)
_NEUTRAL = (b"null", b"false", b"[]", b"{}")
_TOOL_FIELDS = ("type", "name", "description", "input_schema", "strict", "cache_control")
_CHOICES = {"any": "required", "auto": "auto", "none": "none"}
_LONGEST_USER = 64
"""The longest `user` that OpenAI takes, in characters; Claude Code's `user_id` is longer."""
_Part = dict[str, Any]


def chat_twin(request: InferenceRequest) -> InferenceRequest:
    """Return the same request as a chat request; its `changes` say what chat has no words for.

    Raises:
        InvalidRequest: A field has a value that its shape does not allow.
    """
    try:
        whole, changes = _Twin(request).result()
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidRequest("The request cannot be translated: a field has a value of a wrong type.") from error
    body, spans = index_fields(msgspec.json.encode(whole))
    return msgspec.structs.replace(
        request,
        endpoint="chat",
        body=body,
        spans=spans,
        usage_asked=True,
        deterministic=_DECODE(whole.get("temperature", _NULL)) == 0,
        max_tokens=whole["max_tokens"],
        needs=(request.needs - {"messages", "native_messages"}) | {"chat"},
        path="",
        changes=changes,
    )


def _text(raw: msgspec.Raw | None) -> str:
    value = _DECODE(raw) if raw is not None else None
    return value if isinstance(value, str) else ""


class _Twin:
    """One request on its way."""

    def __init__(self, request: InferenceRequest) -> None:
        self._request = request
        self._fields = raw_fields(request.body)
        self._changes: list[str] = list(request.changes)
        self._messages: list[dict[str, Any]] = []

    def result(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what it has become, and what changed."""
        fields, changes = self._fields, self._changes
        changes += [f"{name} dropped" for name, raw in fields.items() if name not in _KNOWN and bytes(raw) != b"null"]
        limit = self._request.max_tokens
        if limit is None:
            limit = 1
            changes.append("max_tokens set to 1")
        self._system(fields.get("system", _NULL))
        for turn in _TURNS.decode(fields["messages"]):
            self._turn(_text(turn["role"]), turn.get("content", _NULL))
        if self._messages and self._messages[-1]["role"] == "assistant":
            self._tell("the beginning of the answer sent as a turn")  # chat servers answer it, few continue it
        whole: dict[str, Any] = {"model": self._request.model, "messages": self._messages, "max_tokens": limit}
        if self._request.stream:
            whole |= {"stream": True, "stream_options": {"include_usage": True}}
        for name, theirs in (("temperature", "temperature"), ("top_p", "top_p"), ("stop_sequences", "stop")):
            if bytes(value := fields.get(name, _NULL)) not in (b"null", b"[]"):
                whole[theirs] = value
        self._tools(whole)
        self._output(whole)
        user = (self._value("metadata") or {}).get("user_id")
        if isinstance(user, str) and len(user) <= _LONGEST_USER:
            whole["user"] = user
        elif user is not None:
            changes.append("metadata.user_id dropped")
        return whole, tuple(dict.fromkeys(changes))

    def _value(self, name: str) -> Any:
        return _DECODE(self._fields.get(name, _NULL))

    def _tell(self, change: str) -> None:
        self._changes.append(change)

    # --- the conversation ---------------------------------------------------------------------

    def _system(self, raw: msgspec.Raw) -> None:
        text = self._plain(raw)
        if text:
            self._messages.append({"role": "system", "content": text})

    def _plain(self, raw: msgspec.Raw) -> str:
        """Return a string, or the texts of a list of blocks, a line apart."""
        if not bytes(raw).startswith(b"["):
            return _text(raw)
        texts = []
        for block in _BLOCKS.decode(raw):
            self._note_lost(block)
            texts.append(_text(block.get("text")))
        return "\n".join(texts)

    def _turn(self, role: str, content: msgspec.Raw) -> None:
        if role == "system":
            self._system(content)
        elif not bytes(content).startswith(b"["):
            self._messages.append({"role": role, "content": _text(content)})
        elif role == "assistant":
            self._assistant(_BLOCKS.decode(content))
        else:
            self._user(_BLOCKS.decode(content))

    def _assistant(self, blocks: list[dict[str, msgspec.Raw]]) -> None:
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        for block in blocks:
            kind = _text(block["type"])
            if kind == "text":
                texts.append(_text(block.get("text")))
                self._note_lost(block)
            elif kind == "tool_use":
                function = {"name": _text(block.get("name")), "arguments": bytes(block.get("input", b"{}")).decode()}
                calls.append({"id": _text(block.get("id")), "type": "function", "function": function})
                if "cache_control" in block:
                    self._tell("cache_control dropped")
            elif kind in ("thinking", "redacted_thinking"):
                self._tell("thinking blocks dropped")
            else:
                self._tell(f"{kind} blocks dropped")
        if texts or calls:
            message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
            self._messages.append(message | ({"tool_calls": calls} if calls else {}))

    def _user(self, blocks: list[dict[str, msgspec.Raw]]) -> None:
        """Add a user's turn: results of tools first, for they must follow the calls."""
        parts: list[_Part] = []
        for block in blocks:
            if _text(block["type"]) == "tool_result":
                self._messages.append(self._result(block, parts))
        for block in blocks:
            if _text(block["type"]) != "tool_result":
                parts += self._parts(block)
        if parts:
            alone = len(parts) == 1 and parts[0]["type"] == "text"
            self._messages.append({"role": "user", "content": parts[0]["text"] if alone else parts})

    def _result(self, block: dict[str, msgspec.Raw], others: list[_Part]) -> dict[str, Any]:
        """Return the result of a tool; what is no text in it goes to `others`, for chat tools give text only."""
        texts: list[str] = []
        content = block.get("content", _NULL)
        if bytes(content).startswith(b"["):
            for inner in _BLOCKS.decode(content):
                for part in self._parts(inner):
                    if part["type"] == "text":
                        texts.append(part["text"])
                    else:
                        others.append(part)
                        self._tell("attachments of tool results moved to the user's message")
        else:
            texts.append(_text(content))
        if bytes(block.get("is_error", _NULL)) == b"true":
            self._tell("tool_result.is_error dropped")
        if "cache_control" in block:
            self._tell("cache_control dropped")
        return {"role": "tool", "tool_call_id": _text(block.get("tool_use_id")), "content": "\n".join(texts)}

    def _parts(self, block: dict[str, msgspec.Raw]) -> list[_Part]:
        kind = _text(block["type"])
        self._note_lost(block)
        if kind == "text":
            return [{"type": "text", "text": _text(block.get("text"))}]
        if kind == "search_result":
            head = f"{_text(block.get('title'))}\n{_text(block.get('source'))}\n\n"
            return [{"type": "text", "text": head + self._plain(block.get("content", _NULL))}]
        if kind not in ("image", "document"):
            self._tell(f"{kind} blocks dropped")
            return []
        source = _OBJECT.decode(block["source"])
        form = _text(source["type"])
        data = f"data:{_text(source.get('media_type'))};base64,{_text(source.get('data'))}" if form == "base64" else ""
        if kind == "image" and form in ("base64", "url"):
            return [{"type": "image_url", "image_url": {"url": data or _text(source.get("url"))}}]
        if form == "base64":
            name = _text(block.get("title")) or "document.pdf"
            self._note_unsaid(block, "context")
            return [{"type": "file", "file": {"filename": name, "file_data": data}}]
        self._note_unsaid(block, "title", "context")
        if form == "text":
            return [{"type": "text", "text": _text(source.get("data"))}]
        if form == "content":
            content = source.get("content", _NULL)
            if not bytes(content).startswith(b"["):
                return [{"type": "text", "text": _text(content)}]
            return [part for inner in _BLOCKS.decode(content) for part in self._parts(inner)]
        self._tell(f"{kind} blocks dropped")
        return []

    def _note_unsaid(self, block: dict[str, msgspec.Raw], *names: str) -> None:
        for name in names:
            if _text(block.get(name)):
                self._tell(f"document.{name} dropped")

    def _note_lost(self, block: dict[str, msgspec.Raw]) -> None:
        if bytes(block.get("cache_control", _NULL)) != b"null":
            self._tell("cache_control dropped")
        if bytes(block.get("citations", _NULL)) not in (b"null", b"[]", b"{}"):
            self._tell("citations dropped")

    # --- the rest -----------------------------------------------------------------------------

    def _tools(self, whole: dict[str, Any]) -> None:
        tools = []
        for tool in _BLOCKS.decode(self._fields["tools"]) if self._value("tools") else ():
            if (kind := _text(tool.get("type"))) not in ("", "custom"):
                self._tell(f"tool {kind} dropped")
                continue
            function: dict[str, Any] = {
                "name": tool["name"],
                "parameters": tool.get("input_schema", {"type": "object", "properties": {}}),
            }
            function |= {name: tool[name] for name in ("description", "strict") if name in tool}
            lost = (name for name, raw in tool.items() if name not in _TOOL_FIELDS and bytes(raw) not in _NEUTRAL)
            self._changes += [f"tools.{name} dropped" for name in lost]
            tools.append({"type": "function", "function": function})
            self._note_lost(tool)
        if not tools:
            return
        whole["tools"] = tools
        choice = self._value("tool_choice")
        if isinstance(choice, dict):
            wanted = choice.get("type")
            named = {"type": "function", "function": {"name": choice.get("name")}}
            whole["tool_choice"] = named if wanted == "tool" else _CHOICES.get(str(wanted), "auto")
            if choice.get("disable_parallel_tool_use") is True:
                whole["parallel_tool_calls"] = False

    def _output(self, whole: dict[str, Any]) -> None:
        config = self._value("output_config") or {}
        effort = effort_of(self._value("thinking"), config, self._changes)
        if effort is not None:
            whole["reasoning_effort"] = effort
        shape = config.get("format") or self._value("output_format")
        if isinstance(shape, dict) and "schema" in shape:
            schema = {"name": "output", "strict": True, "schema": shape["schema"]}
            whole["response_format"] = {"type": "json_schema", "json_schema": schema}
