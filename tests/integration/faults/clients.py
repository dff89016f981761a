"""What callers of each endpoint ask, and how they read what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.sse import SSEReader

__all__ = ["CLIENTS", "ChatClient", "ClientDialect", "Read"]


@dataclass
class Read:
    """An answer as its caller understands it."""

    text: str = ""
    error: str | None = None
    """The code of the error that was told, or its type where the protocol has no codes."""
    ended: bool = False
    """Whether the answer says that it is whole."""
    problems: list[str] = field(default_factory=list)
    """What a strict reader finds wrong with it."""


def _events(body: bytes, read: Read) -> list[tuple[str | None, bytes]]:
    """Return the events of a stream, the last of which must be whole."""
    if not body.endswith(b"\n\n"):
        read.problems.append("the stream ends within an event")
    return [(event.event, event.data) for event in SSEReader().feed(body) if event.data is not None]


def _openai_error(told: Any, read: Read) -> None:
    error = told.get("error")
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"} or not error["message"]:
        read.problems.append(f"no OpenAI error: {told}")
        return
    read.error = str(error["code"])


class ClientDialect:
    """How one endpoint is called.

    Attributes:
        name: The endpoint's name.
        path: Where it is.
    """

    name: str
    path: str

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """Return a request's body."""
        raise NotImplementedError

    def code(self, code: str, status: int) -> str:
        """Return how an error of some code and status is told."""
        return code

    def status(self, status: int) -> int:
        """Return the status by which this dialect knows what others know by another."""
        return status

    def whole(self, body: bytes) -> Read:
        """Read a whole answer, an error included."""
        raise NotImplementedError

    def stream(self, body: bytes) -> Read:
        """Read a stream."""
        raise NotImplementedError


class ChatClient(ClientDialect):
    """`/v1/chat/completions`."""

    name = "chat"
    path = "/v1/chat/completions"

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """Return a chat request."""
        return {"model": model, "messages": [{"role": "user", "content": "Count."}], "stream": stream}

    def whole(self, body: bytes) -> Read:
        """Read a completion."""
        read, told = Read(), json.loads(body)
        if "error" in told:
            _openai_error(told, read)
        else:
            read.text = told["choices"][0]["message"]["content"] or ""
            read.ended = told["choices"][0]["finish_reason"] is not None
        return read

    def stream(self, body: bytes) -> Read:
        """Read chunks up to `[DONE]` or an error."""
        read = Read()
        for _, data in _events(body, read):
            if read.ended or read.error is not None:
                read.problems.append("something follows the end")
            if data.strip() == b"[DONE]":
                read.ended = True
                continue
            told = json.loads(data)
            if "error" in told:
                _openai_error(told, read)
                continue
            for choice in told["choices"]:
                read.text += choice["delta"].get("content") or ""
        return read


_OVERLOADED = 529
"""What Anthropic calls a backend that has no room, which others call 503."""
_ANTHROPIC = {429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error"}


class MessagesClient(ClientDialect):
    """`/v1/messages`."""

    name = "messages"
    path = "/v1/messages"

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """Return a request of the Messages API."""
        turns = [{"role": "user", "content": "Count."}]
        return {"model": model, "max_tokens": 100, "messages": turns, "stream": stream}

    def code(self, code: str, status: int) -> str:
        """Return an error's type, which goes by the status."""
        return _ANTHROPIC.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")

    def status(self, status: int) -> int:
        """Return 529 for a lack of room."""
        return _OVERLOADED if status == 503 else status

    def _error(self, told: Any, read: Read) -> None:
        error = told.get("error")
        if not isinstance(error, dict) or not error.get("message") or not error.get("type"):
            read.problems.append(f"no Anthropic error: {told}")
            return
        read.error = str(error["type"])

    def whole(self, body: bytes) -> Read:
        """Read a message."""
        read, told = Read(), json.loads(body)
        if told.get("type") == "error":
            self._error(told, read)
        else:
            read.text = "".join(block["text"] for block in told["content"] if block["type"] == "text")
            read.ended = told["stop_reason"] is not None
        return read

    def stream(self, body: bytes) -> Read:
        """Read events up to `message_stop` or an error."""
        read, open_blocks = Read(), set()
        for name, data in _events(body, read):
            told = json.loads(data)
            if name != told["type"]:
                read.problems.append(f"event {name} holds {told['type']}")
            if read.ended or read.error is not None:
                read.problems.append("something follows the end")
            if name == "error":
                self._error(told, read)
            elif name == "content_block_start":
                open_blocks.add(told["index"])
            elif name == "content_block_stop":
                open_blocks.discard(told["index"])
            elif name == "content_block_delta":
                read.text += told["delta"].get("text", "")
            elif name == "message_stop":
                read.ended = True
                if open_blocks:
                    read.problems.append("a block was never closed")
        return read


class ResponsesClient(ClientDialect):
    """`/v1/responses`."""

    name = "responses"
    path = "/v1/responses"

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """Return a request of the Responses API."""
        return {"model": model, "input": "Count.", "store": False, "stream": stream}

    def whole(self, body: bytes) -> Read:
        """Read a response object."""
        read, told = Read(), json.loads(body)
        if told.get("object") != "response":
            _openai_error(told, read)
        else:
            read.text = self._text(told)
            read.ended = told["status"] == "completed"
        return read

    @staticmethod
    def _text(response: Any) -> str:
        parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
        return "".join(part["text"] for part in parts if part["type"] == "output_text")

    def stream(self, body: bytes) -> Read:
        """Read events up to `response.completed`, `response.failed` or an error."""
        read, number = Read(), -1
        for name, data in _events(body, read):
            told = json.loads(data)
            if name != told["type"]:
                read.problems.append(f"event {name} holds {told['type']}")
            if read.ended or read.error is not None:
                read.problems.append("something follows the end")
            if told["sequence_number"] <= number and name != "error":  # whoever tells an error has not counted
                read.problems.append("the sequence numbers do not grow")
            number = told["sequence_number"]
            if name == "error":
                read.error = str(told.get("code") or told.get("error", {}).get("code"))
            elif name == "response.failed":
                read.error = str(told["response"]["error"]["code"])
            elif name == "response.output_text.delta":
                read.text += told["delta"]
            elif name == "response.completed":
                read.ended = True
                if self._text(told["response"]) != read.text:
                    read.problems.append("the last event tells another text")
        return read


CLIENTS: Mapping[str, ClientDialect] = {
    client.name: client for client in (ChatClient(), MessagesClient(), ResponsesClient())
}
