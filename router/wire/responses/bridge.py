"""A Responses request carried over chat, and its answer back."""

from __future__ import annotations

import msgspec
from msgspec import structs

from router.types import Chunk, Completion, InferenceRequest
from router.wire.responses.answer import Answer
from router.wire.responses.chat import read_chat
from router.wire.responses.twin import chat_twin
from shared.sse import SSEReader

__all__ = ["ResponsesBridge"]


class ResponsesBridge:
    """A `Bridge` for the Responses API; made anew for each attempt.

    Args:
        request: What the client asked for.

    Raises:
        InvalidRequest: Chat has no form for something in it.
    """

    def __init__(self, request: InferenceRequest) -> None:
        twin = chat_twin(request)
        self._request = twin.request
        self._answer = Answer(request, twin.toolbox, told=request.stream)
        self._reader = SSEReader()

    @property
    def request(self) -> InferenceRequest:
        """The same request as a chat request; its `changes` say what chat has no words for."""
        return self._request

    def whole(self, completion: Completion) -> Completion:
        """Return a whole chat answer as a response.

        Raises:
            UpstreamUnavailable: It is no chat answer.
        """
        self._answer.usage = completion.usage
        self._answer.take(read_chat(completion.body))
        return structs.replace(completion, body=msgspec.json.encode(self._answer.finish()))

    def feed(self, chunk: Chunk) -> Chunk:
        """Return the next piece of a chat stream as events of a response.

        Raises:
            UpstreamUnavailable: It holds what is no chunk of a chat answer.
        """
        answer = self._answer
        answer.usage = chunk.usage or answer.usage
        quiet: list[bytes] = []
        for event in self._reader.feed(chunk.raw):
            if event.data is None:
                quiet.append(event.raw)  # a comment: a sign of life
            elif event.data.strip() != b"[DONE]":
                answer.take(read_chat(event.data))
        if chunk.done:
            answer.finish()
        return structs.replace(chunk, raw=b"".join(quiet) + answer.events())
