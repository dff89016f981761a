"""The OpenAI dialect: llm-d, vLLM, and every provider that speaks it."""

from __future__ import annotations

from functools import partial

from router.interfaces import Reply
from router.types import Candidate, Deployment, Endpoint, InferenceRequest
from router.upstream import DecodedReply, Upstream
from router.wire.chat import forwarded_parts
from router.wire.decoders import EventStream, WholeBody
from router.wire.openai import ChatStream, parse_completion
from router.wire.responses.native import NativeStream, native_parts, parse_native

__all__ = ["OpenAICompatibleAdapter"]

_RUNNING = b"continuous_usage_stats"
_DECLARED = ("responses", "messages", "count_tokens")


class OpenAICompatibleAdapter:
    """Forwards the client's bytes with the backend's model name and passes the reply's bytes on.

    Args:
        upstream: The HTTP client.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:
        """Return whether an endpoint is the backend's own: those that not all have, it or its model must declare."""
        if endpoint not in _DECLARED or endpoint in candidate.model.capabilities:
            return True
        return endpoint in candidate.deployment.backend.endpoints

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Return the backend's reply; see `BackendAdapter.send`."""
        if request.endpoint == "responses":
            return await self._respond(request, deployment, reply_model, until)
        body = forwarded_parts(request, deployment.upstream_model)
        exchange = await self._upstream.post(deployment, "/chat/completions", body, request, until)
        if request.stream:
            running = request.usage_asked and _RUNNING in request.body
            stream = EventStream(ChatStream(reply_model, request.usage_asked, running))
            return DecodedReply(exchange, stream, request.changes)
        return DecodedReply(exchange, WholeBody(partial(parse_completion, reply_model=reply_model)), request.changes)

    async def _respond(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        body = native_parts(request, deployment.upstream_model)
        exchange = await self._upstream.post(deployment, "/responses", body, request, until)
        if request.stream:
            return DecodedReply(exchange, EventStream(NativeStream(reply_model)), request.changes)
        return DecodedReply(exchange, WholeBody(partial(parse_native, reply_model=reply_model)), request.changes)
