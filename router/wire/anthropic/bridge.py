"""One Messages request carried over chat, and its answer carried back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from router.types import Chunk, Completion, InferenceRequest
from router.wire.anthropic.answers import Asked, EventWriter, message_of
from router.wire.anthropic.counting import estimated_tokens
from router.wire.anthropic.twin import chat_twin
from shared.sse import SSEEvent, SSEReader

__all__ = ["MessagesBridge"]

_HIDDEN = ("disabled", "omitted")


class MessagesBridge:
    """Carries a Messages request over chat; a `Bridge`.

    Args:
        request: The client's request.

    Raises:
        InvalidRequest: It cannot be translated.
    """

    def __init__(self, request: InferenceRequest) -> None:
        self._twin = chat_twin(request)
        thinking = _field(request, "thinking")
        told = (thinking.get("type"), thinking.get("display")) if isinstance(thinking, dict) else ()
        stops = _field(request, "stop_sequences")
        self._asked = Asked(
            id=request.id,
            model=request.model,
            prompt_tokens=estimated_tokens(request),
            stops=tuple(stops or ()),
            thinking=not any(word in _HIDDEN for word in told),
        )
        self._writer = EventWriter(self._asked)

    @property
    def request(self) -> InferenceRequest:
        """The same request as a chat request."""
        return self._twin

    def whole(self, completion: Completion) -> Completion:
        """Return a whole chat answer as a message."""
        return msgspec.structs.replace(completion, body=message_of(completion.body, self._asked))

    def feed(self, chunk: Chunk) -> Chunk:
        """Return the next piece of a chat stream as Messages events."""
        out = []
        for event in _events(chunk.raw):
            if event.data is None or not (data := event.data.strip()):
                continue
            out.append(self._writer.end() if data == b"[DONE]" else self._writer.feed(data))
        if chunk.done:
            out.append(self._writer.end())
        return msgspec.structs.replace(chunk, raw=b"".join(out))


def _events(raw: bytes) -> Iterator[SSEEvent]:
    """Yield whole events, whatever their line ends."""
    reader = SSEReader()
    yield from reader.feed(raw)
    if rest := reader.close():
        yield from SSEReader().feed(rest + b"\n\n")


def _field(request: InferenceRequest, name: str) -> Any:
    start, end = request.spans.get(name, (0, 0))
    return msgspec.json.decode(request.body[start:end]) if end else None
