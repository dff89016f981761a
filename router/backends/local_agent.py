"""The agent's dialect: `POST /infer`."""

from __future__ import annotations

import time
from collections.abc import Callable

from router.interfaces import Reply
from router.types import Candidate, Completion, Deployment, Endpoint, InferenceRequest
from router.upstream import DecodedReply, Upstream
from router.wire.decoders import EventStream, WholeBody
from router.wire.infer import InferStream, completion_payload, infer_payload, parse_infer

__all__ = ["LocalAgentAdapter"]


class LocalAgentAdapter:
    """Translates between chat or legacy completions and the agent's payload.

    Args:
        upstream: The HTTP client.
        clock: Unix seconds, for `created`.
    """

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._clock = clock

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:  # noqa: ARG002
        """Return whether an endpoint is one that an agent's payload can carry as it is."""
        return endpoint in ("chat", "completions")

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Return the agent's reply as events of the request's endpoint; see `BackendAdapter.send`."""
        backend, model = deployment.backend, deployment.upstream_model
        created = int(self._clock())
        payload = completion_payload if request.endpoint == "completions" else infer_payload
        body, dropped = payload(request, model, backend.accepts_messages)
        changes = (*request.changes, *dropped)
        exchange = await self._upstream.post(deployment, "/infer", (body,), request, until)
        if request.stream:
            return DecodedReply(exchange, EventStream(InferStream(request, model, reply_model, created)), changes)

        def parse(answer: bytes) -> Completion:
            return parse_infer(answer, request, model, reply_model, created)

        return DecodedReply(exchange, WholeBody(parse), changes)
