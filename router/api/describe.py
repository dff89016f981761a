"""What the OpenAPI page says of the data-plane routes, which are plain ASGI and describe nothing themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

__all__ = ["describe_data_plane"]

_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_WISHES = {
    "type": ["object", "null"],
    "description": "Wishes to the router; each may also be sent as an `x-router-*` header. Not forwarded.",
    "additionalProperties": False,
    "properties": {
        "policy": _TEXT,
        "privacy": {"enum": ["local", "cluster", "any"]},
        "max_cost_usd": {"type": ["number", "string"]},
        "deadline_ms": {"type": "integer"},
        "first_token_ms": {"type": "integer"},
        "fallback": {"enum": ["on", "off", True, False]},
        "cache": {"enum": ["on", "off", "refresh"]},
        "session": _TEXT,
    },
}
_MODEL = {"type": "string", "minLength": 1, "description": "A model id, an alias, or a policy such as `auto`."}
_STREAM = {
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
}
_SAMPLING = {
    "temperature": {"type": ["number", "null"], "minimum": 0},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "max_tokens": {"type": ["integer", "null"], "minimum": 0},
    "stop": {"type": ["string", "array", "null"]},
    "seed": {"type": ["integer", "null"]},
}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "additionalProperties": True,
        "properties": {"role": _TEXT, "content": {"type": ["string", "array", "null"]}},
    },
}
_PROMPT = {
    "description": "A text, several texts, token ids, or several lists of token ids.",
    "type": ["string", "array", "null"],
    "minItems": 1,
}


def _request(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "additionalProperties": True,
        "properties": {"model": _MODEL, **properties, "router": _WISHES},
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _failures() -> dict[str, Any]:
    meanings = {
        "400": "The request cannot be served as written; `param` names the field.",
        "401": "No key, or one that is not valid.",
        "403": "This key may not use this model.",
        "404": "No model, alias or policy of that name.",
        "413": "The body exceeds the limit.",
        "429": "A rate limit; see `Retry-After`.",
        "502": "No backend could answer.",
        "503": "No deployment may serve the request, or all are away.",
        "504": "The backends did not answer in time.",
    }
    return {status: {"description": text, "content": _json(_ERROR)} for status, text in meanings.items()}


_HEADERS = {
    "x-request-id": "Names the request in logs and usage rows.",
    "x-router-decision-id": "Names the routing decision.",
    "x-router-model": "The id of the model that answered.",
    "x-router-backend": "The backend that answered.",
    "x-router-attempts": "How many deployments were tried.",
    "x-router-cache": "`hit`, `miss`, or `off` where the cache was not asked.",
    "x-router-cost-usd": "What the answer cost, where that is known before it is sent.",
    "x-router-overhead-ms": "Time spent in the router before the first byte went to a backend.",
}


def _post(
    tag: str, summary: str, description: str, request: dict[str, Any], answer: str, *, streamed: bool = False
) -> dict[str, Any]:
    """Return what is said of one route."""
    content = _json({"type": "object", "additionalProperties": True})
    if streamed:
        content["text/event-stream"] = {"schema": _TEXT}
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "description": description,
            "security": [{"key": []}],
            "requestBody": {"required": True, "content": _json(request)},
            "responses": {
                "200": {
                    "description": answer,
                    "headers": {name: {"description": text, "schema": _TEXT} for name, text in _HEADERS.items()},
                    "content": content,
                },
                **_failures(),
            },
        }
    }


_AT_LEAST_ONE = {"type": ["integer", "null"], "minimum": 1}
_CHAT = _request(
    "model",
    "messages",
    messages=_MESSAGES,
    max_completion_tokens=_AT_LEAST_ONE,
    **_STREAM,
    **_SAMPLING | {"max_tokens": _AT_LEAST_ONE},
)
_COMPLETION = _request("model", "prompt", prompt=_PROMPT, **_STREAM, **_SAMPLING)
_EMBEDDING = _request("model", "input", input=_PROMPT | {"type": ["string", "array"]})
_RESPONSE = _request(
    "model",
    input={"type": ["string", "array", "null"]},
    instructions={"type": ["string", "array", "null"]},
    previous_response_id={"type": ["string", "null"]},
    store={"type": ["boolean", "null"]},
    stream=_STREAM["stream"],
    tools={"type": ["array", "null"]},
    max_output_tokens=_AT_LEAST_ONE,
)
_CHUNKS = ", or with `stream: true` its chunks as server-sent events."

_PASSED: dict[str, tuple[str, ...]] = {
    "/audio/speech": ("model", "input"),
    "/audio/transcriptions": ("model", "file"),
    "/audio/translations": ("model", "file"),
    "/images/generations": ("prompt",),
    "/images/edits": ("image", "prompt"),
    "/images/variations": ("image",),
    "/moderations": ("input",),
    "/rerank": ("model", "query", "documents"),
}
"""Routes that pass by model, and what a request must hold."""


def _passed(path: str, required: tuple[str, ...]) -> dict[str, Any]:
    """Return what is said of a route that passes by model."""
    tag, _, kind = path.lstrip("/").partition("/")
    told = _post(
        tag,
        f"{tag.capitalize()}: {kind}" if kind else tag.capitalize(),
        "Passed on by model; the answer comes back as it is.",
        _request(*required),
        "The backend's answer, in its content type.",
        streamed=kind in ("transcriptions", "generations", "edits"),
    )
    content = told["post"]["requestBody"]["content"]
    if "file" in required or "image" in required:
        content["multipart/form-data"] = content["application/json"]
    if kind == "speech":
        told["post"]["responses"]["200"]["content"] = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    return told


PATHS: dict[str, Any] = {
    "/v1/chat/completions": _post(
        "chat",
        "Create a chat completion",
        "OpenAI's chat completions. Unknown fields reach the backend unchanged.",
        _CHAT,
        "A chat completion" + _CHUNKS,
        streamed=True,
    ),
    "/v1/completions": _post(
        "completions",
        "Continue a prompt",
        "OpenAI's legacy completions. Unknown fields reach the backend unchanged.",
        _COMPLETION,
        "A text completion" + _CHUNKS,
        streamed=True,
    ),
    "/v1/embeddings": _post(
        "embeddings",
        "Embed texts",
        "OpenAI's embeddings. Request and answer pass unchanged.",
        _EMBEDDING,
        "A list of embeddings.",
    ),
    **{f"/v1{path}": _passed(path, required) for path, required in _PASSED.items()},
    "/v1/responses": _post(
        "responses",
        "Create a response",
        "OpenAI's Responses API: passed on to backends that have it, carried over chat to all others.",
        _RESPONSE,
        "A response, or with `stream: true` its events as server-sent events.",
        streamed=True,
    ),
}


def describe_data_plane(app: FastAPI) -> None:
    """Make the app's OpenAPI description include the data-plane routes."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schema["paths"] = {**PATHS, **schema["paths"]}
            schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["key"] = {"type": "http", "scheme": "bearer"}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
