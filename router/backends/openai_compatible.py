"""The OpenAI dialect: llm-d, vLLM, and every provider that speaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from router.interfaces import Decoder, Parts, Reply
from router.types import Candidate, Completion, Deployment, Endpoint, InferenceRequest
from router.upstream import OPENAI, DecodedReply, Manner, Upstream
from router.wire.anthropic import native as messages
from router.wire.chat import forwarded_parts
from router.wire.completions import CompletionStream, parse_text_completion
from router.wire.decoders import EventStream, Translation, WholeBody, WholeStream
from router.wire.embeddings import parse_embedding_list
from router.wire.failures import endpoint_failure
from router.wire.forms import is_form
from router.wire.openai import ChatStream, parse_completion
from router.wire.passthrough import PassedBytes, PassedEvents, passed_answer, passed_parts
from router.wire.responses.native import NativeStream, native_parts, parse_native
from router.wire.steering import without_steering
from router.wire.strict import with_limit_as, without_foreign_state

__all__ = ["OpenAICompatibleAdapter"]

_RUNNING = b"continuous_usage_stats"
_ANTHROPIC = Manner(forwarded=("anthropic-version", "anthropic-beta"))
_OPENAI = re.compile(r"https?://(api\.openai\.com|[\w.-]+\.openai\.azure\.com)([:/]|$)")
"""OpenAI's own addresses, whose reasoning models know one name of the limit only."""
_STRICT = re.compile(
    _OPENAI.pattern + r"|https?://api\.(groq\.com|mistral\.ai|cerebras\.ai|x\.ai|deepseek\.com|perplexity\.ai)([:/]|$)"
)
"""Addresses of backends that are known to refuse what they do not know in a conversation's turns."""
_PASSED = Manner(forwarded=("accept",), failure=endpoint_failure, any_type=True)
_FORM = Manner(forwarded=("accept", "content-type"), failure=endpoint_failure, any_type=True)
_Sent = tuple[Parts, Sequence[str]]


def _forwarded(request: InferenceRequest, deployment: Deployment) -> _Sent:
    return forwarded_parts(request, deployment.upstream_model), request.changes


def _chat(request: InferenceRequest, deployment: Deployment) -> _Sent:
    base_url = deployment.backend.base_url
    if request.carried:
        request = with_limit_as(request, "max_completion_tokens" if _OPENAI.match(base_url) else "max_tokens")
    if _STRICT.match(base_url):
        request = without_foreign_state(request)
    return _forwarded(request, deployment)


def _messages(request: InferenceRequest, deployment: Deployment) -> _Sent:
    parts, changes = messages.forwarded_parts(request, deployment.upstream_model)
    return parts, (*request.changes, *changes)


def _responses(request: InferenceRequest, deployment: Deployment) -> _Sent:
    return native_parts(request, deployment.upstream_model), request.changes


def _chat_events(request: InferenceRequest, reply_model: str | None) -> Translation:
    return ChatStream(reply_model, request.usage_asked, request.usage_asked and _RUNNING in request.body)


def _completion_events(request: InferenceRequest, reply_model: str | None) -> Translation:
    return CompletionStream(reply_model, request.usage_asked, request.choices)


class _Speech(NamedTuple):
    """How one endpoint is spoken that has a shape of its own.

    Attributes:
        path: Behind the backend's base URL.
        whole: Reads a whole answer, given what it is to say in `model`.
        events: Returns what reads a stream.
        sent: Returns what is sent, and what it lost.
        declared: Whether a backend or a model must declare it, as not all have it.
        manner: How it is spoken over HTTP.
    """

    path: str
    whole: Callable[[bytes, str | None], Completion]
    events: Callable[[InferenceRequest, str | None], Translation] | None = None
    sent: Callable[[InferenceRequest, Deployment], _Sent] = _forwarded
    declared: bool = False
    manner: Manner = OPENAI


_SPOKEN: Mapping[Endpoint, _Speech] = {
    "chat": _Speech("/chat/completions", parse_completion, _chat_events, _chat),
    "completions": _Speech("/completions", parse_text_completion, _completion_events),
    "embeddings": _Speech("/embeddings", parse_embedding_list),
    "responses": _Speech("/responses", parse_native, lambda _, name: NativeStream(name), _responses, declared=True),
    "messages": _Speech(
        "/messages",
        messages.parse_message,
        lambda _, name: messages.MessagesStream(name),
        _messages,
        declared=True,
        manner=_ANTHROPIC,
    ),
    "count_tokens": _Speech(
        "/messages/count_tokens",
        lambda body, _: messages.parse_count(body),
        None,
        _messages,
        declared=True,
        manner=_ANTHROPIC,
    ),
}


class OpenAICompatibleAdapter:
    """Forwards the client's bytes with the backend's model name and passes the reply's bytes on.

    Args:
        upstream: The HTTP client.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:
        """Return whether an endpoint is the backend's own: those that not all have, it or its model must declare."""
        speech = _SPOKEN.get(endpoint)
        if speech is None or not speech.declared:
            return True
        return endpoint in candidate.model.capabilities or endpoint in candidate.deployment.backend.endpoints

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Return the backend's reply; see `BackendAdapter.send`."""
        if deployment.backend.tier == "cluster":
            request = without_steering(request)
        speech = _SPOKEN.get(request.endpoint)
        if speech is None:
            return await self._pass(request, deployment, reply_model, until)
        body, changes = speech.sent(request, deployment)
        exchange = await self._upstream.post(deployment, speech.path, body, request, until, speech.manner)
        decoder: Decoder
        if request.stream and speech.events is not None:
            decoder = EventStream(speech.events(request, reply_model))
        else:
            decoder = WholeBody(lambda answer: speech.whole(answer, reply_model))
        return DecodedReply(exchange, decoder, changes)

    async def _pass(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Send what has no shape of its own, and return whatever comes back."""
        body = passed_parts(request, deployment.upstream_model)
        manner = _FORM if is_form(request.content_type) else _PASSED
        exchange = await self._upstream.post(deployment, request.path, body, request, until, manner)
        content_type = exchange.headers.get("content-type", "")
        if not request.stream:
            return DecodedReply(exchange, WholeBody(lambda answer: passed_answer(answer, content_type, reply_model)))
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return DecodedReply(exchange, EventStream(PassedEvents()))
        decoder: Decoder = PassedBytes()
        if kind == "application/json" or kind.startswith("text/"):
            # Not every backend streams what it is asked to stream.
            decoder = WholeStream(lambda answer: passed_answer(answer, content_type, reply_model))
        return DecodedReply(exchange, decoder, content_type=content_type or "application/octet-stream")
