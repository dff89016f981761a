"""A stand-in of an llm-d cluster: what its endpoint picker (EPP), Envoy, the sidecar and vLLM send, byte for byte.

EPP, Envoy and vLLM are told as EPP 0.10, Envoy 1.40 and vLLM 0.32 write them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.upstream import (
    Script,
    ScriptedReply,
    ScriptedUpstream,
    SeenRequest,
    chunk,
    completion,
    scripted_upstream,
)

__all__ = ["INNER", "SHAPES", "USAGE", "WORDS", "Pool", "epp", "llmd_pool", "serve"]

INNER = ("10.42.0.7:8000", "10.42.0.7", "llm-d-decode.llm-d.svc.cluster.local", "x-llm-d", "x-envoy")
"""What is the cluster's own, and no client's."""
WORDS = ("one", " two", " three", " four")
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
_REASON = "x-llm-d-request-dropped-reason"
_DATE = "date: Sat, 28 Nov 2026 12:00:00 GMT\r\nserver: envoy\r\n"
_PHRASES = {400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}
_PHRASES |= {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


def _answer(status: int, body: str, kind: str = "text/plain", headers: Mapping[str, str] | None = None) -> Script:
    named = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    length = f"content-length: {len(body)}\r\n" + (f"content-type: {kind}\r\n" if body else "")
    whole = f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{named}{length}{_DATE}\r\n{body}".encode()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.raw(whole)

    return script


def epp(status: int, code: str, message: str, reason: str | None = None) -> Script:
    """Return EPP's own answer, which Envoy sends in its place."""
    headers = {} if reason is None else {_REASON: reason}
    return _answer(status, f"inference error: {code} - {message}", headers=headers)


def _epp_json(status: int, kind: str, message: str, reason: str | None = None) -> Script:
    """Return the same as releases after 0.10 write it."""
    body = json.dumps({"error": {"message": message, "type": kind, "code": status}}, separators=(",", ":"))
    return _answer(status, body, "application/json", {} if reason is None else {_REASON: reason})


def _vllm(status: int, kind: str, message: str, param: str | None = None) -> Script:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return _answer(status, json.dumps({"error": error}, separators=(",", ":")), "application/json")


def _sidecar(status: int, kind: str, message: str) -> Script:
    error = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return _answer(status, json.dumps(error, separators=(",", ":")), "application/json")


# --- answers ------------------------------------------------------------------------------------------


def _event(data: Any) -> bytes:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _is_text(request: SeenRequest) -> bool:
    return request.path.endswith("/completions") and not request.path.endswith("/chat/completions")


def _text(word: str, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    choices = [{"index": 0, "text": word, "logprobs": None, "finish_reason": finish}]
    about = {"id": "cmpl-script", "object": "text_completion", "created": 1, "model": "upstream-model"}
    return {**about, "choices": choices, **extra}


def _said(request: SeenRequest, word: str, finish: str | None = None) -> bytes:
    return _event(_text(word, finish) if _is_text(request) else chunk({"content": word}, finish))


def _whole(request: SeenRequest, text: str, finish: str = "stop") -> dict[str, Any]:
    if _is_text(request):
        return _text(text, finish, usage=USAGE)
    told = completion(text)
    told["choices"][0]["finish_reason"] = finish
    return told


async def _begin(request: SeenRequest, reply: ScriptedReply, words: int) -> None:
    await reply.start_stream({"server": "envoy"})
    if not _is_text(request):
        await reply.send(_event(chunk({"role": "assistant", "content": ""})))
    for word in WORDS[:words]:
        await reply.send(_said(request, word))


async def serve(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer as vLLM behind Envoy does."""
    if not request.json.get("stream"):
        await reply.json(_whole(request, "".join(WORDS)), headers={"server": "envoy"})
        return
    await _begin(request, reply, len(WORDS))
    await reply.send(_said(request, "", "stop"))
    if (request.json.get("stream_options") or {}).get("include_usage"):
        await reply.send(_event(chunk(None, usage=USAGE)))
    await reply.send(b"data: [DONE]\n\n")
    await reply.end_stream()


_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause. peer 10.42.0.7:8000"
_DEAD_ERROR = {"error": {"message": _DEAD, "type": "InternalServerError", "param": None, "code": 500}}
_DEAD_EVENT = f"data: {json.dumps(_DEAD_ERROR)}\n\n".encode()


def _broken_off(words: int, how: str) -> Script:
    """Return an answer that ends after some words: by an `error`, an `abort`, or a connection `cut`."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        said = "".join(WORDS[:words])
        if not request.json.get("stream"):
            if how == "error":
                await _vllm(500, "InternalServerError", _DEAD)(request, reply)
            elif how == "abort":
                await reply.json(_whole(request, said, "abort"))
            else:
                body = json.dumps(_whole(request, said)).encode()
                await reply.raw(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                await reply.send(body[: len(body) // 2])
                await asyncio.sleep(0.01)  # what was written is to arrive before the reset
                reply.cut()
            return
        await _begin(request, reply, words)
        if how == "cut":
            await asyncio.sleep(0.01)
            reply.cut()
            return
        await reply.send(_DEAD_EVENT if how == "error" else _said(request, "", "abort"))
        await reply.send(b"data: [DONE]\n\n")
        await reply.end_stream()

    return script


_NO_MODEL = "The model `up` does not exist. Valid aliases: other."
_RESET = "upstream connect error or disconnect/reset before headers. reset reason: "
_BUSY = "Please try again later or on a different instance."
_TOO_LONG = (
    "This model's maximum context length is 10 tokens. However, your request has 20 input tokens. Please reduce the "
    "length of the input messages."
)

SHAPES: Mapping[str, Script] = {
    "saturated": epp(429, "ResourceExhausted", "queue at capacity", "rejected-saturated"),
    "ttl": epp(429, "ResourceExhausted", "request TTL expired", "rejected-ttl-expired"),
    "saturated_legacy": epp(429, "ResourceExhausted", "system saturated, sheddable request dropped"),
    "saturated_json": _epp_json(429, "rate_limit_error", "system saturated, sheddable request dropped"),
    "evicted": _answer(429, "request evicted by flow control", headers={_REASON: "evicted"}),
    "evicted_priority": _answer(429, "request evicted by flow control", headers={_REASON: "evicted-priority"}),
    "denied": epp(500, "Internal", "request cannot be admitted: no endpoint of 10.42.0.7 meets the SLO"),
    "no_endpoints": epp(503, "ServiceUnavailable", "no endpoints available: pool llm-d", "rejected-no-endpoints"),
    "no_endpoints_json": _epp_json(503, "server_error", "failed to find endpoint candidates for serving the request"),
    "no_pods": epp(500, "Internal", "no pods available in datastore"),
    "shutting_down": epp(503, "ServiceUnavailable", "flow controller shutting down", "rejected-shutting-down"),
    "cancelled": epp(503, "ServiceUnavailable", "client disconnected", "rejected-context-cancelled"),
    "epp_fault": epp(500, "Internal", "internal flow control error: 10.42.0.7:8000"),
    "envoy_none": _answer(503, "no healthy upstream"),
    "envoy_reset": _answer(503, _RESET + "remote connection failure, transport failure reason: 10.42.0.7:8000"),
    "envoy_overflow": _answer(503, _RESET + "overflow", headers={"x-envoy-overloaded": "true"}),
    "envoy_timeout": _answer(504, "upstream request timeout"),
    "sidecar_400": _sidecar(400, "BadRequest", "bad kv_transfer_params of llm-d-decode.llm-d.svc.cluster.local:8000"),
    "sidecar_502": _sidecar(502, "BadGateway", "prefill at 10.42.0.7:8000 failed"),
    "sidecar_503": _sidecar(503, "ServiceUnavailable", "prefill at 10.42.0.7:8000 failed"),
    "too_long": _vllm(400, "BadRequestError", _TOO_LONG, "input_tokens"),
    "queue_full": _vllm(
        503, "Service Unavailable", f"The engine is currently busy and cannot accept new requests. {_BUSY}"
    ),
    "tokens_full": _vllm(
        503, "Service Unavailable", f"The engine has reached its prefill token backlog limit. {_BUSY}"
    ),
    "no_model": _vllm(404, "NotFoundError", _NO_MODEL, "model"),
    "no_model_sidecar": _sidecar(404, "NotFoundError", _NO_MODEL),
    "no_model_silent": _answer(404, ""),
    "sigterm_first": _broken_off(0, "error"),
    "sigterm": _broken_off(2, "error"),
    "abort_first": _broken_off(0, "abort"),
    "abort": _broken_off(2, "abort"),
    "cut_first": _broken_off(0, "cut"),
    "cut": _broken_off(2, "cut"),
}
"""What each part sends, by a name of ours."""


# --- scaling from zero ----------------------------------------------------------------------------------


@dataclass
class Pool:
    """A pool of workers behind EPP; it has none until it is started.

    Attributes:
        upstream: Where it is.
        queue: Whether EPP holds requests while there is no worker, rather than to refuse them.
        waits: How many it holds.
        refusal: What it says where it refuses.
    """

    upstream: ScriptedUpstream
    queue: bool = False
    waits: int = 0
    refusal: Script = SHAPES["no_endpoints"]
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The base URL, with `/v1`."""
        return self.upstream.url

    @property
    def asked(self) -> int:
        """How many requests came."""
        return len(self.upstream.requests)

    async def play(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request as the pool can now."""
        if self.queue and not self.ready.is_set():
            self.waits += 1
            try:
                await self.ready.wait()
            finally:
                self.waits -= 1
        await (serve if self.ready.is_set() else self.refusal)(request, reply)


@asynccontextmanager
async def llmd_pool(*, queue: bool = False) -> AsyncIterator[Pool]:
    """Run a cluster that has scaled to zero while the context lasts."""
    async with scripted_upstream() as upstream:
        pool = Pool(upstream, queue)
        upstream.script = pool.play
        yield pool
