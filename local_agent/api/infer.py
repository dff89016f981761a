"""`POST /infer`: the agent's own, minimal dialect."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from local_agent.api.deps import check_model, services_of
from local_agent.api.requests import InferBody, read
from local_agent.api.responses import Answer, event, usage_of
from local_agent.types import Finished

__all__ = ["router"]

router = APIRouter(tags=["infer"])


class _Infer:
    """Writes answers of `/infer`.

    Args:
        model: The serving model's id.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        return event({"text": text})

    def end(self, finished: Finished) -> bytes:
        return event(
            {
                "text": "",
                "done": True,
                "finish_reason": finished.reason,
                "model": self._model,
                "usage": usage_of(finished),
            }
        )

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        return {"text": text, "finish_reason": finished.reason, "model": self._model, "usage": usage_of(finished)}


@router.post(
    "/infer",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": InferBody.model_json_schema()}}}
    },
)
async def infer(request: Request) -> Response:
    """Generate text; a bare `prompt` is one user turn of the model's chat template."""
    services = services_of(request)
    body = await read(request, InferBody, services.body_limit)
    model = check_model(services, body.model)
    status = services.supervisor.status()
    chat = status.model is None or "chat" in status.model.capabilities
    return Answer(
        services.supervisor,
        body.generation(chat=chat),
        _Infer(model),
        stream=body.stream,
        metrics=services.metrics,
        route="infer",
    )
