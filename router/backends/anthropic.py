"""The Anthropic dialect: `POST /v1/messages`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType

from router.interfaces import Decoder, Parts, Reply
from router.types import Candidate, Completion, Deployment, Endpoint, InferenceRequest
from router.upstream import OPENAI, DecodedReply, Manner, Upstream
from router.wire.anthropic.native import (
    MessagesStream,
    forwarded_parts,
    parse_count,
    parse_message,
    refuses_a_signature,
    without_foreign_thinking,
)
from router.wire.anthropic.replies import ReplyStream, parse_reply
from router.wire.anthropic.requests import messages_request
from router.wire.decoders import EventStream, WholeBody
from shared.errors import UpstreamRejected

__all__ = ["AnthropicAdapter"]

_VERSION = "2023-06-01"
"""What is told where the client names no version of the API."""
_MANNER = Manner(
    key_header="x-api-key",
    fixed=MappingProxyType({**OPENAI.fixed, "anthropic-version": _VERSION}),
    forwarded=("anthropic-version", "anthropic-beta"),
)
_NATIVE = ("messages", "count_tokens")
_VERSIONED = re.compile(r"/v\d+[a-z]*/?$")
_BETA = "?beta=true"


class AnthropicAdapter:
    """Passes on what is in the dialect already, and translates chat.

    Args:
        upstream: The HTTP client.
        clock: Unix seconds, for `created`.
    """

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._clock = clock

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:  # noqa: ARG002
        """Return whether a request can be sent: Messages as they are, chat translated."""
        return endpoint in _NATIVE or endpoint == "chat"

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Return the backend's reply, in the dialect of the request; see `BackendAdapter.send`."""
        model = deployment.upstream_model
        decoder: Decoder
        body: Parts
        changes: Sequence[str]
        if request.endpoint in _NATIVE:
            body, changes = forwarded_parts(request, model)
            decoder = _native(request, reply_model)
        else:
            translated = messages_request(request, model, deployment.max_output_tokens)
            body, changes = (translated.body,), translated.changes
            decoder = self._translating(request, model, reply_model)
        path = _path(request, deployment)
        try:
            exchange = await self._upstream.post(deployment, path, body, request, until, _MANNER)
        except UpstreamRejected as refused:
            # The conversation began at another provider: what that one signed means nothing here.
            own = without_foreign_thinking(body) if refuses_a_signature(refused) else None
            if own is None:
                raise
            exchange = await self._upstream.post(deployment, path, (own[0],), request, until, _MANNER)
            changes = (*changes, *own[1])
        return DecodedReply(exchange, decoder, changes)

    def _translating(self, request: InferenceRequest, model: str, reply_model: str | None) -> Decoder:
        created = int(self._clock())
        if request.stream:
            return EventStream(ReplyStream(model, reply_model, created, request.usage_asked))

        def parse(answer: bytes) -> Completion:
            return parse_reply(answer, model, reply_model, created)

        return WholeBody(parse)


def _native(request: InferenceRequest, reply_model: str | None) -> Decoder:
    if request.endpoint == "count_tokens":
        return WholeBody(parse_count)
    if request.stream:
        return EventStream(MessagesStream(reply_model))
    return WholeBody(partial(parse_message, reply_model=reply_model))


def _path(request: InferenceRequest, deployment: Deployment) -> str:
    """Return the path behind the backend's base URL, which may end in the version of the API or not."""
    base = deployment.backend.base_url.partition("?")[0]
    path = "/messages" if _VERSIONED.search(base) else "/v1/messages"
    if request.endpoint == "count_tokens":
        path += "/count_tokens"
    return path + (_BETA if request.path.endswith(_BETA) else "")
