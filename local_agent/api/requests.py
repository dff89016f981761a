"""Request bodies: what is accepted, and how it becomes a `Generation`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from local_agent.types import Generation, Sampling
from shared.asgi import read_body
from shared.errors import InvalidRequest

__all__ = ["ChatBody", "CompletionBody", "InferBody", "Message", "read"]

Temperature = Annotated[float, Field(ge=0, le=2)]
Stops = Annotated[list[str], Field(max_length=16)]
# JSON has no largest integer; the wire to the worker has.
_HUGE = 1 << 62
# Members of a union appear in error locations under names such as `list[str]` and `str`.
_FIELD = re.compile(r"(?!(?:str|int|float|bool)$)[a-z_]+")
B = TypeVar("B", bound="_Body")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is required")
        return self


class _Body(BaseModel):
    """What all three routes share."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    harmless: ClassVar[dict[str, tuple[Any, ...]]] = {
        "tools": ([],),
        "functions": ([],),
        "response_format": ({"type": "text"},),
        "logprobs": (False, 0),
        "top_logprobs": (0,),
        "logit_bias": ({},),
        "n": (1,),
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }
    """Documented fields that this agent cannot honour, and the values that ask for nothing."""

    model: str | None = Field(None, description="Model id; absent: the model that is served.")
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature = 0.7
    top_p: float | None = Field(None, gt=0, le=1, description="Absent: the model's own default.")
    top_k: int | None = Field(
        None, ge=-1, description="0 and -1 look at the whole vocabulary; absent: the model's own default."
    )
    stop: str | Stops = Field(default_factory=list, description="Text that ends the answer; never part of it.")
    seed: int | None = None
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    stream: bool = False

    @model_validator(mode="before")
    @classmethod
    def _honourable(cls, data: Any) -> Any:
        """Refuse what cannot be honoured; null means absent, as in OpenAI's clients."""
        if not isinstance(data, dict):
            return data
        data = {key: value for key, value in data.items() if value is not None}
        for name, neutral in cls.harmless.items():
            if name in data and data[name] not in neutral:
                raise InvalidRequest(f"This agent cannot honour `{name}` yet.", param=name)
        return data

    def sampling(self) -> Sampling:
        """Return how tokens are to be chosen."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else min(max(0, self.top_k), _HUGE),
            seed=None if self.seed is None else self.seed % _HUGE,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return tuple(stop for stop in stops if stop)


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in messages]


class InferBody(_Body):
    """Body of `POST /infer`."""

    prompt: str | None = Field(
        None, description="What the user says; for an instruct model it becomes one user turn of its chat template."
    )
    messages: list[Message] | None = Field(
        None, description="A conversation; takes the place of `prompt` where both are given."
    )
    max_tokens: Annotated[int, Field(ge=1)] = 512
    prefill: str = Field("", description="Beginning of the answer; the text returned continues it.")

    def generation(self, *, chat: bool) -> Generation:
        """Return what to generate; `chat` says whether the model has a chat template."""
        if self.messages is None and self.prompt is None:
            raise InvalidRequest("Either `prompt` or `messages` is required.", param="prompt")
        if self.messages is not None and not self.messages:
            raise InvalidRequest("`messages` must not be empty.", param="messages")
        if self.messages is None and not self.prompt:
            raise InvalidRequest("`prompt` must not be empty.", param="prompt")
        messages = _turns(self.messages) if self.messages else None
        origin = "prompt" if messages is None else "messages"
        if messages is None and chat:
            messages = [{"role": "user", "content": self.prompt}]
        return Generation(
            messages=messages,
            prompt=self.prompt if messages is None else None,
            origin=origin,
            prefill=self.prefill,
            max_tokens=min(self.max_tokens, _HUGE),
            stop=self.stops(),
            sampling=self.sampling(),
        )


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class _OpenAIBody(_Body):
    model: str = Field(description="Model id.")
    stream_options: _StreamOptions = _StreamOptions()


class ChatBody(_OpenAIBody):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    continue_final_message: bool = Field(
        False, description="Continue the last assistant message instead of answering it (vLLM's extension)."
    )

    def generation(self) -> Generation:
        """Return what to generate."""
        messages, prefill = _turns(self.messages), ""
        if self.continue_final_message:
            if messages[-1]["role"] != "assistant":
                raise InvalidRequest("The final message is not the assistant's.", param="continue_final_message")
            content = messages.pop().get("content", "")
            prefill = content if isinstance(content, str) else "".join(part["text"] for part in content)
            if not messages:
                raise InvalidRequest("There is nothing before the final message.", param="messages")
        wanted = self.max_completion_tokens or self.max_tokens
        return Generation(
            messages=messages,
            origin="messages",
            prefill=prefill,
            max_tokens=None if wanted is None else min(wanted, _HUGE),
            stop=self.stops(),
            sampling=self.sampling(),
        )


class CompletionBody(_OpenAIBody):
    """Body of `POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] = 16

    def generation(self) -> Generation:
        """Return what to generate."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        if not prompt:
            raise InvalidRequest("`prompt` must not be empty.", param="prompt")
        return Generation(
            prompt=prompt, max_tokens=min(self.max_tokens, _HUGE), stop=self.stops(), sampling=self.sampling()
        )


async def read(request: Request, kind: type[B], limit: int) -> B:
    """Return the parsed body of a request.

    Raises:
        InvalidRequest: The body is no JSON or does not fit; `param` names the first field at fault.
        PayloadTooLarge: The body exceeds `limit`.
    """
    raw = await read_body(request.scope, request.receive, limit)
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise InvalidRequest(
                f"The request body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}."
            ) from error
        path = _field_path(first["loc"])
        place = f"`{path}`: " if path else ""
        raise InvalidRequest(f"{place}{first['msg']}.", param=path or None) from error


def _field_path(location: tuple[int | str, ...]) -> str:
    """Return a path (`messages[0].role`), without the names that pydantic gives to the members of a union."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if _is_place(part))
    return "".join(parts).removeprefix(".")


def _is_place(part: int | str) -> bool:
    return isinstance(part, int) or _FIELD.fullmatch(part) is not None
