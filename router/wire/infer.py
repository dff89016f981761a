"""The agent's `/infer`: a chat request as its payload, its text as a chat answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from router.types import Chunk, Completion, InferenceRequest, Usage
from router.wire.failures import error_event
from router.wire.fields import raw_fields
from shared.errors import UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["BYTES_PER_TOKEN", "InferStream", "completion_payload", "infer_payload", "parse_infer"]

BYTES_PER_TOKEN = 4
"""What a token of text comes to, on average, where nobody counted."""

_NULL = msgspec.Raw(b"null")
_OPTIONAL = ("top_p", "top_k", "stop", "seed", "prefill")
_DOCUMENTED = ("model", "prompt", "max_tokens", "temperature", "stream", "stream_options", "router", "user")
_SAID = frozenset(
    (*_DOCUMENTED, "messages", "max_completion_tokens", "n", "continue_final_message", "add_generation_prompt")
)
_NEUTRAL = (b"null", b"false", b"0", b"0.0", b"[]", b"{}")
"""Values that ask for nothing."""


class _Piece(msgspec.Struct):
    type: str
    text: msgspec.Raw = msgspec.Raw(b"null")


class _Turn(msgspec.Struct):
    role: str
    content: str | list[_Piece] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Reply(msgspec.Struct):
    text: str | None = None
    done: bool | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_TURNS = msgspec.json.Decoder(list[_Turn])
_USAGE = msgspec.json.Decoder(_Usage)
_REPLY = msgspec.json.Decoder(_Reply)


def infer_payload(request: InferenceRequest, upstream_model: str, accepts_messages: bool) -> tuple[bytes, list[str]]:
    """Return the `/infer` payload for a chat request, and what it has no words for.

    An agent that accepts messages gets them, and applies its model's own template; any other
    gets the documented payload alone, with the conversation rendered into `prompt` in order. What vLLM calls
    `continue_final_message` is the agent's `prefill`.
    """
    fields = raw_fields(request.body)
    messages = fields["messages"]
    temperature = fields.get("temperature", _NULL)
    payload: dict[str, Any] = {
        "max_tokens": request.max_tokens or 512,
        "temperature": 0.7 if bytes(temperature) == b"null" else temperature,
        "stream": request.stream,
    }
    told = {name: value for name, value in fields.items() if name not in _SAID and bytes(value) not in _NEUTRAL}
    if not accepts_messages:
        whole = {"prompt": _render_prompt(_TURNS.decode(messages)), **payload}
        return msgspec.json.encode(whole), [f"{name} dropped" for name in told]
    payload |= {"messages": messages, "model": upstream_model}
    for name in _OPTIONAL:
        told.pop(name, None)
        if bytes(value := fields.get(name, _NULL)) != b"null":
            payload[name] = value
    if bytes(fields.get("continue_final_message", _NULL)) == b"true":
        *before, last = msgspec.json.decode(messages, type=list[msgspec.Raw])
        turn = msgspec.json.decode(last, type=_Turn)
        if before and turn.role == "assistant":
            payload |= {"messages": before, "prefill": _text(turn.content)}
    return msgspec.json.encode(payload), [f"{name} dropped" for name in told]


def completion_payload(
    request: InferenceRequest, upstream_model: str, accepts_messages: bool
) -> tuple[bytes, list[str]]:
    """Return the `/infer` payload for a request for a legacy completion, and what it has no words for.

    The agent reads a prompt as one turn of its user, in its model's own template.
    """
    fields = raw_fields(request.body)
    temperature = fields.get("temperature", _NULL)
    payload: dict[str, Any] = {
        "prompt": fields["prompt"],
        "max_tokens": 16 if request.max_tokens is None else request.max_tokens,  # as OpenAI has it
        "temperature": 0.7 if bytes(temperature) == b"null" else temperature,
        "stream": request.stream,
    }
    told = {name: value for name, value in fields.items() if bytes(value) != b"null" and name not in _DOCUMENTED}
    if accepts_messages:
        payload["model"] = upstream_model
        payload |= {name: told.pop(name) for name in _OPTIONAL if name in told}
    return msgspec.json.encode(payload), [f"{name} dropped" for name in told]


def _render_prompt(turns: Sequence[_Turn]) -> str:
    """Return a conversation as plain text; a single user message stays as it is."""
    if len(turns) == 1 and turns[0].role == "user":
        return _text(turns[0].content)
    told = [f"{turn.role.capitalize()}: {_text(turn.content)}" for turn in turns]
    return "\n\n".join([*told, "Assistant:"])


def _text(content: str | list[_Piece] | None) -> str:
    if isinstance(content, list):
        texts = [bytes(piece.text) for piece in content if piece.type == "text"]
        return "\n".join(str(msgspec.json.decode(text)) for text in texts if text.startswith(b'"'))
    return content or ""


def _usage(reported: msgspec.Raw, request: InferenceRequest, text_bytes: int) -> Usage:
    """Return the agent's own count, or an estimate where it gives none that can be read."""
    try:
        counted = _USAGE.decode(reported)
        return Usage(counted.prompt_tokens, counted.completion_tokens)
    except msgspec.DecodeError:
        pass
    return Usage(
        prompt_tokens=math.ceil(request.text_bytes / BYTES_PER_TOKEN),
        completion_tokens=math.ceil(text_bytes / BYTES_PER_TOKEN),
        source="estimated",
    )


def _decode(data: bytes) -> _Reply:
    try:
        reply = _REPLY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamUnavailable("The agent's answer is not valid.") from error
    if bytes(reply.error) != b"null":
        raise error_event(reply.error)
    return reply


def parse_infer(
    body: bytes, request: InferenceRequest, model: str, reply_model: str | None, created: int
) -> Completion:
    """Return an agent's JSON answer as a chat completion, or as a legacy one where that was asked for.

    Args:
        body: The agent's answer; only `text` must be in it.
        request: What was asked; its id becomes the completion's.
        model: The deployment's model, said where the agent names none.
        reply_model: What the answer says in `model`; None keeps the agent's own.
        created: Unix seconds.

    Raises:
        UpstreamUnavailable: The answer holds no text.
    """
    reply = _decode(body)
    if reply.text is None:
        raise UpstreamUnavailable("The agent's answer holds no text.")
    usage = _usage(reply.usage, request, len(reply.text.encode()))
    finish = reply.finish_reason or "stop"
    legacy = request.endpoint == "completions"
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    said = {"text": reply.text} if legacy else {"message": message}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
    whole = {
        "id": f"cmpl-{request.id}" if legacy else f"chatcmpl-{request.id}",
        "object": "text_completion" if legacy else "chat.completion",
        "created": created,
        "model": reply_model or reply.model or model,
        "choices": [choice],
        "usage": usage.openai(),
    }
    return Completion(msgspec.json.encode(whole), usage, finish)


class InferStream:
    """Turns the events of an agent's stream into chat completion chunks, or legacy ones where those were asked for.

    Args: as for `parse_infer`.
    """

    def __init__(self, request: InferenceRequest, model: str, reply_model: str | None, created: int) -> None:
        self._request = request
        self._fixed_model = reply_model
        self._model = reply_model or model
        self._created = created
        self._text_bytes = 0
        self._legacy = request.endpoint == "completions"
        self._started = self._legacy  # its chunks have no role to begin with
        self._finished = False

    def feed(self, event: SSEEvent) -> list[Chunk]:
        """Return the chunks for one event.

        Raises:
            UpstreamUnavailable: The event is not valid, or says that the agent failed.
        """
        if not event.data or not event.data.strip() or self._finished:
            return []
        if event.data.strip() == b"[DONE]":
            return self._finish(_Reply())
        reply = _decode(event.data)
        if reply.model and self._fixed_model is None:
            self._model = reply.model
        chunks: list[Chunk] = [] if self._started else [self._chunk({"role": "assistant", "content": ""})]
        self._started = True
        if reply.text:
            self._text_bytes += len(reply.text.encode())
            chunks.append(self._chunk({"content": reply.text}, output=True))
        if reply.done:
            chunks += self._finish(reply)
        return chunks

    def close(self) -> list[Chunk]:
        """Return nothing more where the answer has ended.

        Raises:
            UpstreamUnavailable: The bytes ended before the answer did.
        """
        if not self._finished:
            raise UpstreamUnavailable("The agent closed the stream before its answer was complete.")
        return []

    def _finish(self, reply: _Reply) -> list[Chunk]:
        self._finished = True
        usage = _usage(reply.usage, self._request, self._text_bytes)
        chunks = [] if self._started else [self._chunk({"role": "assistant", "content": ""})]
        self._started = True
        chunks.append(self._chunk({}, finish=reply.finish_reason or "stop"))
        if self._request.usage_asked:
            whole = self._head([]) | {"usage": usage.openai()}
            chunks.append(Chunk(encode_event(msgspec.json.encode(whole)), usage=usage))
        else:
            chunks.append(Chunk(b"", usage=usage))
        return [*chunks, Chunk(DONE, done=True)]

    def _head(self, choices: list[Any]) -> dict[str, Any]:
        head: dict[str, Any] = {
            "id": f"cmpl-{self._request.id}" if self._legacy else f"chatcmpl-{self._request.id}",
            "object": "text_completion" if self._legacy else "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._request.usage_asked:
            head["usage"] = None
        return head

    def _chunk(self, delta: dict[str, str], *, output: bool = False, finish: str | None = None) -> Chunk:
        said = {"text": delta.get("content", "")} if self._legacy else {"delta": delta}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return Chunk(encode_event(msgspec.json.encode(self._head([choice]))), output, None, finish)
