"""A chat conversation as Messages turns: system apart, tool results with the user, roles that alternate."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shared.errors import InvalidRequest, NotCarried

__all__ = ["Conversation", "source_of_url"]

_SYSTEM = ("system", "developer")
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?,", re.ASCII)
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "cache_control", "thinking_blocks", "refusal")
_UNTOLD = ("reasoning_content", "reasoning", "reasoning_details", "audio", "annotations")
"""What an assistant's message carries of its own making; dropped and told only where it says something."""
Block = dict[str, Any]


class Conversation:
    """Takes a chat request's messages and holds the same as `system` and `turns`.

    Args:
        messages: The decoded messages.
        changes: Where to tell what has no place in the other dialect.

    Raises:
        InvalidRequest: A message or a part is none.
    """

    def __init__(self, messages: list[Any], changes: list[str]) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, Any]] = []
        self._changes = changes
        self._last_call = "call"
        for index, message in enumerate(messages):
            self._take(message, f"messages[{index}]")
        if not self.turns and not self.system:
            raise NotCarried(
                "Anthropic's Messages have no place for a conversation of empty messages.", param="messages"
            )
        if not self.turns:
            # There is no conversation without a user.
            self._add("user", self.system)
            self.system = []
            changes.append("system sent as user")

    @property
    def unsigned(self) -> bool:
        """Whether the last assistant's turn calls tools without the thinking that led there."""
        for turn in reversed(self.turns):
            if turn["role"] == "assistant":
                kinds = [block.get("type") for block in turn["content"]]
                return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")
        return False

    def _take(self, message: Any, param: str) -> None:
        if not isinstance(message, dict):
            raise InvalidRequest(f"Invalid value for '{param}': expected an object.", param=param)
        role = message.get("role")
        if role in _SYSTEM:
            if self.turns:
                self._tell("later system messages moved to the front")
            self.system += self._parts(message, f"{param}.content")
        elif role == "assistant":
            self._add("assistant", self._assistant(message, param))
        elif role in ("tool", "function"):
            self._add("user", [self._result(message, param)])
        else:
            self._add("user", self._parts(message, f"{param}.content"))
        for name, value in message.items():
            if value is None or name in _MESSAGE_FIELDS or (name == "function_call" and role == "assistant"):
                continue
            if name == "name" and role == "function":
                continue
            if name not in _UNTOLD or value:
                self._tell(f"messages[].{name} dropped")

    def _add(self, role: str, blocks: list[Block]) -> None:
        """Append to the last turn where it is of the same role: roles take turns here."""
        if not blocks:
            self._tell("empty messages dropped")  # they are refused
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": list(blocks)})

    def _tell(self, change: str) -> None:
        self._changes.append(change)

    def _assistant(self, message: dict[str, Any], param: str) -> list[Block]:
        # Its maker refuses thinking without a signature.
        blocks: list[Block] = [
            block
            for block in message.get("thinking_blocks") or ()
            if block.get("signature") or block.get("type") == "redacted_thinking"
        ]
        blocks += self._parts(message, f"{param}.content")
        if isinstance(refusal := message.get("refusal"), str) and refusal:
            blocks.append({"type": "text", "text": refusal})
        for call in message.get("tool_calls") or ():
            blocks.append(self._call(call, f"{param}.tool_calls"))
        if isinstance(call := message.get("function_call"), dict):
            blocks.append(self._call({"id": f"call_{len(self.turns)}", "function": call}, f"{param}.function_call"))
        return blocks

    def _call(self, call: Any, param: str) -> Block:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            custom = call.get("custom") if isinstance(call, dict) else None
            if not isinstance(custom, dict):
                raise InvalidRequest(f"Invalid value for '{param}': expected function calls.", param=param)
            function = {"name": custom.get("name"), "arguments": msgspec.json.encode({"input": custom.get("input")})}
        self._last_call = self._id(call.get("id"))
        return {
            "type": "tool_use",
            "id": self._last_call,
            "name": function.get("name") or "",
            "input": self._input(function.get("arguments")),
        }

    def _input(self, arguments: Any) -> Any:
        """Return a call's arguments as the object that they spell, their own bytes where that can be."""
        text = arguments if isinstance(arguments, (str, bytes)) else ""
        if not text.strip():
            return {}
        try:
            _OBJECT.decode(text)
        except (msgspec.DecodeError, RecursionError):
            self._tell("tool_calls[].function.arguments wrapped in an object")
            return {"arguments": text if isinstance(text, str) else text.decode()}
        return msgspec.Raw(text if isinstance(text, bytes) else text.encode())

    def _id(self, given: Any) -> str:
        known = _BAD_ID.sub("_", str(given or "")) or "call"
        if known != given:
            self._tell("tool call ids rewritten")
        return known

    def _result(self, message: dict[str, Any], param: str) -> Block:
        own = message.get("tool_call_id")
        block: Block = {
            "type": "tool_result",
            "tool_use_id": self._id(own) if own is not None else self._last_call,
        }
        content = message.get("content")
        if isinstance(content, str):
            block["content"] = content
        elif content:
            block["content"] = self._parts({"content": content}, f"{param}.content")
        if message.get("cache_control"):
            block["cache_control"] = message["cache_control"]
        return block

    def _parts(self, message: dict[str, Any], param: str) -> list[Block]:
        content = message.get("content")
        blocks: list[Block] = []
        if isinstance(content, str):
            if content:  # an empty text is refused, and says nothing
                blocks.append({"type": "text", "text": content})
        elif isinstance(content, list):
            for index, part in enumerate(content):
                if (block := self._part(part, f"{param}[{index}]")) is not None:
                    blocks.append(block)
        elif content is not None:
            raise InvalidRequest(f"Invalid value for '{param}': expected a string or an array.", param=param)
        if blocks and message.get("cache_control"):
            blocks[-1]["cache_control"] = message["cache_control"]
        return blocks

    def _part(self, part: Any, param: str) -> Block | None:
        if not isinstance(part, dict):
            raise InvalidRequest(f"Invalid value for '{param}': expected an object.", param=param)
        kind = part.get("type")
        block: Block | None = None
        if kind in ("text", "refusal"):
            text = part.get(kind)
            block = {"type": "text", "text": text} if text else None
        elif kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            block = {"type": "image", "source": source_of_url(str(url or ""))}
        elif kind == "file":
            block = self._file(part.get("file") or {}, param)
        elif kind == "input_audio":
            raise InvalidRequest(f"Invalid value for '{param}': the backend takes no audio.", param=param)
        else:
            return dict(part)  # of Anthropic's own kinds, perhaps: theirs to judge
        if block is not None and part.get("cache_control"):
            block["cache_control"] = part["cache_control"]
        return block

    def _file(self, file: dict[str, Any], param: str) -> Block:
        name, data = file.get("filename"), file.get("file_data")
        if isinstance(data, str):
            source = source_of_url(data if data.startswith("data:") else f"data:application/pdf;base64,{data}")
        elif isinstance(file_id := file.get("file_id"), str):
            source = {"type": "file", "file_id": file_id}
        else:
            raise InvalidRequest(f"Invalid value for '{param}': expected file_data or file_id.", param=param)
        if source.get("media_type", "").startswith("image/"):
            return {"type": "image", "source": source}
        return {"type": "document", "source": source, **({"title": name} if isinstance(name, str) else {})}


def source_of_url(url: str) -> dict[str, Any]:
    """Return a block's `source` for an address: what a data URL holds, or the address of anything else."""
    head = _DATA_URL.match(url)
    if head is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": head.group(1) or "application/octet-stream", "data": url[head.end() :]}
