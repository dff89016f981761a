"""The agent's dialect: `POST /infer`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from router.types import Deployment, Event, InferenceRequest
from router.upstream import Upstream
from router.wire.infer import InferStream, infer_payload, parse_infer

__all__ = ["LocalAgentAdapter"]


class LocalAgentAdapter:
    """Translates between chat completions and the agent's payload.

    Args:
        upstream: The HTTP client.
        clock: Unix seconds, for `created`.
    """

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._clock = clock

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None
    ) -> AsyncIterator[Event]:
        """Yield the agent's answer as chat completion events; see `BackendAdapter.send`."""
        backend = deployment.backend
        created = int(self._clock())
        body = infer_payload(request, deployment.upstream_model, backend.accepts_messages)
        async with self._upstream.post(backend, "/infer", body, request.headers, request.id) as reply:
            if not request.stream:
                yield parse_infer(await reply.read(), request, deployment.upstream_model, reply_model, created)
                return
            stream = InferStream(request, deployment.upstream_model, reply_model, created)
            async for event in reply.events():
                for chunk in stream.feed(event):
                    yield chunk
            for chunk in stream.close(clean=False):
                yield chunk
