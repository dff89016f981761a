"""OpenAI's routes for chat and raw completions."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from local_agent.api.deps import check_model, services_of
from local_agent.api.requests import ChatBody, CompletionBody, read
from local_agent.api.responses import Answer, event, usage_of
from local_agent.types import Finished

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["openai"])


class _OpenAI:
    """What chat and raw completions share: one id and one time for all chunks.

    Args:
        model: The serving model's id.
        include_usage: Whether a stream ends with a chunk of usage.
    """

    prefix = ""
    chunk_object = ""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._include_usage = include_usage
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
            **more,
        }

    def _chunk(self, choice: dict[str, Any], reason: str | None = None) -> bytes:
        # With usage asked for, OpenAI's every other chunk says `usage: null`.
        usage = {"usage": None} if self._include_usage else {}
        choices = [{"index": 0, **choice, "logprobs": None, "finish_reason": reason}]
        return event(self._object(self.chunk_object, choices, **usage))

    def _usage_chunk(self, finished: Finished) -> bytes:
        if not self._include_usage:
            return b""
        return event(self._object(self.chunk_object, [], usage=usage_of(finished)))


class _Chat(_OpenAI):
    prefix = "chatcmpl"
    chunk_object = "chat.completion.chunk"

    def begin(self) -> bytes:
        return self._chunk({"delta": {"role": "assistant", "content": ""}})

    def piece(self, text: str) -> bytes:
        return self._chunk({"delta": {"content": text}})

    def end(self, finished: Finished) -> bytes:
        return self._chunk({"delta": {}}, finished.reason) + self._usage_chunk(finished)

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.reason}
        return self._object("chat.completion", [choice], usage=usage_of(finished))


class _Completion(_OpenAI):
    prefix = "cmpl"
    chunk_object = "text_completion"

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        return self._chunk({"text": text})

    def end(self, finished: Finished) -> bytes:
        return self._chunk({"text": ""}, finished.reason) + self._usage_chunk(finished)

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finished.reason}
        return self._object("text_completion", [choice], usage=usage_of(finished))


@router.post(
    "/chat/completions",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ChatBody.model_json_schema()}}}
    },
)
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    services = services_of(request)
    body = await read(request, ChatBody, services.body_limit)
    model = check_model(services, body.model)
    return Answer(
        services.supervisor,
        body.generation(),
        _Chat(model, include_usage=body.stream_options.include_usage),
        stream=body.stream,
        metrics=services.metrics,
        route="chat",
    )


@router.post(
    "/completions",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": CompletionBody.model_json_schema()}},
        }
    },
)
async def create_completion(request: Request) -> Response:
    """Continue a raw text; no chat template."""
    services = services_of(request)
    body = await read(request, CompletionBody, services.body_limit)
    model = check_model(services, body.model)
    return Answer(
        services.supervisor,
        body.generation(),
        _Completion(model, include_usage=body.stream_options.include_usage),
        stream=body.stream,
        metrics=services.metrics,
        route="completions",
    )
