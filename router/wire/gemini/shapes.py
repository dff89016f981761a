"""What a `generateContent` answer looks like, as far as a chat answer has a place for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from router.types import Usage
from router.wire.gemini.failures import stream_failure
from shared.errors import UpstreamUnavailable

__all__ = ["Answer", "Candidate", "Part", "logprobs_of", "read_answer"]

_NULL = msgspec.Raw(b"null")
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Shape(msgspec.Struct, rename="camel"):
    """Names are written in camel case."""


class _FunctionCall(_Shape):
    name: str
    id: str | None = None
    args: msgspec.Raw = _NULL


class _Blob(_Shape):
    mime_type: str = ""
    data: str = ""


class Part(_Shape):
    """A piece of an answer: text, a thought, a function call, or a picture."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None
    inline_data: _Blob | None = None


class _Content(_Shape):
    parts: list[Part] | None = None


class _Token(_Shape):
    token: str = ""
    log_probability: float | None = None


class _Tokens(_Shape):
    candidates: list[_Token] | None = None


class _Logprobs(_Shape):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Tokens] | None = None


class Candidate(_Shape):
    """One of the answers to a request, or what an event of a stream adds to it."""

    content: _Content | None = None
    index: int | None = None
    finish_reason: str | None = None
    logprobs_result: _Logprobs | None = None


class _Feedback(_Shape):
    block_reason: str | None = None
    block_reason_message: str | None = None


class _Usage(_Shape):
    prompt_token_count: _Count | None = None
    tool_use_prompt_token_count: _Count | None = None
    candidates_token_count: _Count | None = None
    thoughts_token_count: _Count | None = None
    cached_content_token_count: _Count | None = None


class Answer(_Shape):
    """A whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: msgspec.Raw = _NULL
    model_version: str | None = None
    error: msgspec.Raw = _NULL

    @property
    def blocked(self) -> str | None:
        """Why the prompt was not answered at all, in words, or None."""
        feedback = self.prompt_feedback
        if feedback is None or feedback.block_reason is None:
            return None
        return feedback.block_reason_message or f"The prompt was blocked ({feedback.block_reason})."

    @property
    def usage(self) -> Usage | None:
        """The reported token counts, or None where nothing was reported that can be read."""
        try:
            counted = _USAGE.decode(self.usage_metadata)
        except msgspec.DecodeError:
            return None  # an answer is not lost to a count
        if counted is None:
            return None
        prompt = (counted.prompt_token_count or 0) + (counted.tool_use_prompt_token_count or 0)
        thoughts = counted.thoughts_token_count or 0
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=(counted.candidates_token_count or 0) + thoughts,
            cached_tokens=min(counted.cached_content_token_count or 0, prompt),
            reasoning_tokens=thoughts,
        )


_ANSWER: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_USAGE: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)


def read_answer(data: bytes) -> Answer:
    """Return an answer, or one event of a stream.

    Raises:
        UpstreamUnavailable: It is none.
        ServiceError: It is an error, as ours.
    """
    try:
        data.isascii() or data.decode()
        answer = _ANSWER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamUnavailable("The backend's answer is not a valid generateContent answer.") from error
    if bytes(answer.error) != b"null":
        raise stream_failure(answer.error)
    return answer


def logprobs_of(candidate: Candidate) -> dict[str, Any] | None:
    """Return the log probabilities of what a candidate says, in OpenAI's shape."""
    told = candidate.logprobs_result
    if told is None or not told.chosen_candidates:
        return None
    others: Sequence[_Tokens] = told.top_candidates or ()
    content = []
    for index, chosen in enumerate(told.chosen_candidates):
        best = (others[index].candidates or ()) if index < len(others) else ()
        content.append(_token(chosen) | {"top_logprobs": [_token(one) for one in best]})
    return {"content": content, "refusal": None}


def _token(token: _Token) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": -9999.0 if token.log_probability is None else token.log_probability,
        "bytes": list(token.token.encode()),
    }
