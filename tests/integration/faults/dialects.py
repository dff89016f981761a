"""What backends say, in each dialect: one fixed answer in pieces, so that a fault can be put between any two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.upstream import SeenRequest, chunk, completion

__all__ = ["DIALECTS", "TEXT", "WORDS", "BackendDialect"]

WORDS = ("one", " two", " three", " four")
TEXT = "".join(WORDS)
PROMPT_TOKENS, COMPLETION_TOKENS = 7, 5
_USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 12}


def _event(data: Any, name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json.dumps(data).encode() + b"\n\n"


@dataclass(frozen=True)
class BackendDialect:
    """One dialect's words for the fixed answer.

    Attributes:
        name: As in a manifest.
        base: What its base URL ends in.
        whole: The whole answer.
        opening: The events that come before any text.
        quiet: An event that says nothing, between two others.
        words: One event for each word.
        finish: The events that end the answer.
        closing: What tells that nothing more comes; empty where `finish` does.
        hollow: A whole answer that holds no answer.
        too_long: How it says that a prompt is too long.
    """

    name: str
    base: str
    whole: bytes
    opening: tuple[bytes, ...]
    quiet: bytes
    words: tuple[bytes, ...]
    finish: tuple[bytes, ...]
    closing: bytes
    hollow: bytes
    too_long: str = "This model's maximum context length is 10 tokens."

    def error(self, status: int, message: str) -> bytes:
        """Return the body that tells an error."""
        return json.dumps(_ERRORS[self.name](status, message)).encode()

    def error_event(self, message: str) -> bytes:
        """Return the event that tells an error of the backend's own."""
        return _event(_ERRORS[self.name](500, message), "error" if self.name == "anthropic" else None)

    def streams(self, request: SeenRequest) -> bool:
        """Return whether a request asks for a stream."""
        if self.name == "gemini":
            return "streamGenerateContent" in request.path
        return bool(request.json.get("stream"))


def _openai_error(status: int, message: str) -> Any:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _anthropic_error(status: int, message: str) -> Any:
    kind = _ANTHROPIC_KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


_GOOGLE_KINDS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


def _gemini_error(status: int, message: str) -> Any:
    return {"error": {"code": status, "message": message, "status": _GOOGLE_KINDS.get(status, "UNAVAILABLE")}}


_ERRORS = {
    "openai": _openai_error,
    "local_agent": _openai_error,
    "anthropic": _anthropic_error,
    "gemini": _gemini_error,
}


def _openai() -> BackendDialect:
    return BackendDialect(
        name="openai",
        base="/v1",
        whole=json.dumps(completion(TEXT)).encode(),
        opening=(_event(chunk({"role": "assistant", "content": ""})),),
        quiet=_event(chunk({"content": ""})),
        words=tuple(_event(chunk({"content": word})) for word in WORDS),
        finish=(_event(chunk({}, "stop")), _event(chunk(None, usage=_USAGE))),
        closing=b"data: [DONE]\n\n",
        hollow=json.dumps({**completion(""), "choices": []}).encode(),
    )


def _agent() -> BackendDialect:
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    last = {"text": "", "done": True, "finish_reason": "stop", "usage": usage}
    return BackendDialect(
        name="local_agent",
        base="",
        whole=json.dumps({**last, "text": TEXT, "model": "upstream-model"}).encode(),
        opening=(_event({"text": "", "done": False}),),
        quiet=_event({"text": "", "done": False}),
        words=tuple(_event({"text": word, "done": False}) for word in WORDS),
        finish=(_event(last),),
        closing=b"",
        hollow=b'{"model": "upstream-model"}',
    )


def _anthropic() -> BackendDialect:
    counted = {"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS}
    message: dict[str, Any] = {
        "id": "msg_script",
        "type": "message",
        "role": "assistant",
        "model": "upstream-model",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**counted, "output_tokens": 1},
    }
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    said = {**message, "content": [{"type": "text", "text": TEXT}], **stop, "usage": counted}

    def delta(text: str) -> bytes:
        told = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        return _event(told, "content_block_delta")

    return BackendDialect(
        name="anthropic",
        base="",
        whole=json.dumps(said).encode(),
        opening=(
            _event({"type": "message_start", "message": message}, "message_start"),
            _event(block, "content_block_start"),
        ),
        quiet=_event({"type": "ping"}, "ping"),
        words=tuple(map(delta, WORDS)),
        finish=(
            _event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            _event(
                {"type": "message_delta", "delta": stop, "usage": {"output_tokens": COMPLETION_TOKENS}},
                "message_delta",
            ),
        ),
        closing=_event({"type": "message_stop"}, "message_stop"),
        hollow=b'{"id": "msg_script", "type": "message", "role": "assistant", "model": "upstream-model"}',
        too_long="prompt is too long: 20 tokens > 10 maximum",
    )


def _gemini() -> BackendDialect:
    counted = {
        "promptTokenCount": PROMPT_TOKENS,
        "candidatesTokenCount": COMPLETION_TOKENS,
        "totalTokenCount": PROMPT_TOKENS + COMPLETION_TOKENS,
    }

    def told(text: str, **candidate: str) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        said = {"candidates": [{"content": content, "index": 0, **candidate}], "modelVersion": "upstream-model"}
        return {**said, "responseId": "resp-script"}

    return BackendDialect(
        name="gemini",
        base="",
        whole=json.dumps({**told(TEXT, finishReason="STOP"), "usageMetadata": counted}).encode(),
        opening=(_event(told("")),),
        quiet=_event(told("")),
        words=tuple(_event(told(word)) for word in WORDS),
        finish=(_event({**told("", finishReason="STOP"), "usageMetadata": counted}),),
        closing=b"",
        hollow=b'{"modelVersion": "upstream-model"}',
        too_long="The input token count (20) exceeds the maximum number of tokens allowed (10).",
    )


DIALECTS: Mapping[str, BackendDialect] = {
    dialect.name: dialect for dialect in (_openai(), _agent(), _anthropic(), _gemini())
}
