"""Google's dialect: `generateContent` of the Gemini API."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from router.interfaces import Reply
from router.types import Backend, Candidate, Completion, Deployment, Endpoint, InferenceRequest
from router.upstream import DecodedReply, Manner, Upstream
from router.wire.decoders import EventStream, WholeBody
from router.wire.gemini.answers import parse_generated
from router.wire.gemini.failures import google_failure
from router.wire.gemini.requests import generate_payload
from router.wire.gemini.streams import GeminiStream

__all__ = ["GeminiAdapter"]

_GOOGLE = Manner(key_header="x-goog-api-key", failure=google_failure)
_VERSION = re.compile(r"/v\d[a-z\d]*(/|$)")
_COLLECTIONS = ("models/", "tunedModels/", "endpoints/")


class GeminiAdapter:
    """Translates between chat completions and `generateContent`.

    Args:
        upstream: The HTTP client.
        clock: Unix seconds, for `created`.
    """

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._clock = clock

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:  # noqa: ARG002
        """Return whether an endpoint's requests are translated here without a bridge: chat's."""
        return endpoint == "chat"

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Return the backend's reply as chat completion events; see `BackendAdapter.send`."""
        model = deployment.upstream_model
        created = int(self._clock())
        body, changes = generate_payload(request, model)
        path = _path(deployment.backend, model, stream=request.stream)
        exchange = await self._upstream.post(deployment, path, (body,), request, until, _GOOGLE)
        if request.stream:
            stream = EventStream(GeminiStream(request, model, reply_model, created))
            return DecodedReply(exchange, stream, changes)

        def parse(answer: bytes) -> Completion:
            return parse_generated(answer, request, model, reply_model, created)

        return DecodedReply(exchange, WholeBody(parse), changes)


def _path(backend: Backend, model: str, *, stream: bool) -> str:
    """Return where a model is asked, behind a base URL with or without the version of the API."""
    version = "" if _VERSION.search(urlsplit(backend.base_url).path) else "/v1beta"
    place = model if model.startswith(_COLLECTIONS) else f"models/{model}"
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"{version}/{quote(place)}:{method}"
