"""The events of `streamGenerateContent` as chat completion chunks."""

from __future__ import annotations

from typing import Any

import msgspec

from router.types import Chunk, InferenceRequest, Usage
from router.wire.gemini.answers import Choice
from router.wire.gemini.shapes import Candidate, logprobs_of, read_answer
from shared.errors import UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["GeminiStream"]


class GeminiStream:
    """Translates one stream; a `Translation`.

    A choice's end is told at the end of the stream: some models write a finish reason into every event.

    Args:
        request: What was asked; its id becomes the chunks'.
        model: The deployment's model, said where the backend names none.
        reply_model: What chunks say in `model`; None keeps the backend's own.
        created: Unix seconds.
    """

    def __init__(self, request: InferenceRequest, model: str, reply_model: str | None, created: int) -> None:
        self._request = request
        self._fixed_model = reply_model
        self._model = reply_model or model
        self._named = reply_model is not None
        self._created = created
        self._choices: dict[int, Choice] = {}
        self._usage: Usage | None = None

    def feed(self, event: SSEEvent) -> list[Chunk]:
        """Return the chunks for one event.

        Raises:
            UpstreamUnavailable: The event is not valid.
            ServiceError: The event says that the backend failed.
        """
        data = (event.data or b"").strip()
        if not data:
            return []
        if data == b"[DONE]":  # not Google's, but of some that speak its dialect
            return self.close()
        answer = read_answer(data)
        if answer.model_version and not self._named:
            # All chunks name one model: the one that the first of them names.
            self._model, self._named = answer.model_version, True
        usage = answer.usage
        self._usage = usage or self._usage
        chunks: list[Chunk] = []
        for place, candidate in enumerate(answer.candidates or ()):
            chunks += self._said(place if candidate.index is None else candidate.index, candidate)
        if not answer.candidates and (reason := answer.blocked) is not None:
            choice, chunks = self._choice(0)
            choice.finish = "content_filter"
            chunks.append(self._chunk(0, {"refusal": reason}, output=True))
        if usage is not None:
            # Counts grow from event to event; an answer that is cut off has cost what the last one said.
            chunks.append(Chunk(b"", usage=usage))
        return chunks

    def _choice(self, index: int) -> tuple[Choice, list[Chunk]]:
        choice = self._choices.get(index)
        if choice is not None:
            return choice, []
        choice = self._choices[index] = Choice(self._request, index)
        self._named = True
        return choice, [self._chunk(index, {"role": "assistant", "content": ""})]

    def _said(self, index: int, candidate: Candidate) -> list[Chunk]:
        choice, chunks = self._choice(index)
        logprobs = logprobs_of(candidate)
        for delta in choice.add(candidate):
            output = delta.keys() != {"extra_content"}
            chunks.append(self._chunk(index, delta, output=output, logprobs=logprobs))
            logprobs = None
        if logprobs is not None:
            chunks.append(self._chunk(index, {}, logprobs=logprobs))
        return chunks

    def close(self) -> list[Chunk]:
        """Return the end of each choice, the usage that was asked for, and `[DONE]`.

        Raises:
            UpstreamUnavailable: The bytes ended before the answer did.
        """
        if not self._choices or any(choice.finish is None for choice in self._choices.values()):
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        chunks = [self._chunk(index, {}, finish=choice.finish) for index, choice in sorted(self._choices.items())]
        if self._usage is not None and self._request.usage_asked:
            told = self._head([]) | {"usage": self._usage.openai()}
            chunks.append(Chunk(encode_event(msgspec.json.encode(told)), usage=self._usage))
        return [*chunks, Chunk(DONE, done=True)]

    def _head(self, choices: list[Any]) -> dict[str, Any]:
        head: dict[str, Any] = {
            "id": f"chatcmpl-{self._request.id}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._request.usage_asked:
            head["usage"] = None
        return head

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        output: bool = False,
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return Chunk(encode_event(msgspec.json.encode(self._head([choice]))), output, None, finish)
