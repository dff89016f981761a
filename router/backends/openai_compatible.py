"""The OpenAI dialect: llm-d, vLLM, and every provider that speaks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from router.types import Chunk, Deployment, Event, InferenceRequest
from router.upstream import Upstream
from router.wire.chat import forwarded_body
from router.wire.openai import completion_event, parse_completion
from shared.errors import UpstreamUnavailable
from shared.sse import DONE

__all__ = ["OpenAICompatibleAdapter"]


class OpenAICompatibleAdapter:
    """Forwards the client's bytes with the backend's model name and passes the reply's bytes on.

    Args:
        upstream: The HTTP client.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None
    ) -> AsyncIterator[Event]:
        """Yield the backend's answer; see `BackendAdapter.send`."""
        body = forwarded_body(request, deployment.upstream_model)
        post = self._upstream.post(deployment.backend, "/chat/completions", body, request.headers, request.id)
        async with post as reply:
            if not request.stream:
                yield parse_completion(await reply.read(), reply_model)
                return
            finished = False
            async for event in reply.events():
                chunk = completion_event(event, reply_model, request.usage_asked)
                finished = finished or chunk.finish_reason is not None
                yield chunk
                if chunk.raw == DONE:
                    return
            if not finished:
                raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
            # A server that ends its answer properly but forgets `[DONE]` has still answered.
            yield Chunk(DONE)
