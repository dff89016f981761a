"""The data plane: which path is which resource, and how each is reached through ASGI."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from router.api.chat import CHAT
from router.api.client import AsgiClient, Call, answer_error
from router.api.completions import COMPLETIONS
from router.api.deps import services_of
from router.api.embeddings import EMBEDDINGS
from router.api.messages import COUNT_TOKENS, COUNT_TOKENS_BETA, MESSAGES, MESSAGES_BETA
from router.api.passthrough import PASSED
from router.api.respond import Resource, respond
from router.api.responses import RESPONSES
from router.wire.fields import index_fields, insert_field, splice
from router.wire.openai import openai_error
from shared.asgi import Receive, Scope, Send, header, race, read_body
from shared.errors import MethodNotAllowed, ServiceError

__all__ = ["AZURE", "RESOURCES", "DataPlaneRoute", "error_shape"]

RESOURCES: Mapping[str, Resource] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/messages?beta=true": MESSAGES_BETA,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/messages/count_tokens?beta=true": COUNT_TOKENS_BETA,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    **PASSED,
}
"""Path, with a query where that makes a difference, to resource."""

AZURE = "/openai/deployments/{deployment:path}"
"""Where Azure's clients look for `/v1`: they name the model in the path."""


def error_shape(scope: Scope) -> Callable[[ServiceError], tuple[int, bytes]]:
    """Return how errors are told to the clients of a request's route: as those of the resource that it is part of."""
    path: str = scope["path"]
    if path.startswith("/v1/models") and header(scope, b"anthropic-version") is not None:
        path = "/v1/messages"
    above = [name for name in RESOURCES if path == name or path.startswith(name + "/")]
    return RESOURCES[max(above, key=len)].front.error if above else openai_error


def _naming(body: bytes, model: str) -> bytes:
    """Return a JSON body that names its model; one that cannot be read is told of later."""
    try:
        body, spans = index_fields(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    if not spans or "model" in spans:
        return body
    return splice(body, [insert_field(spans, "model", msgspec.json.encode(model))])


class DataPlaneRoute:
    """One path as a raw ASGI endpoint, for any ASGI server; the services come with the scope.

    No framework work is done on the request path.

    Args:
        path: A path in `RESOURCES`.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        query = scope["query_string"].decode("latin-1")
        resource = RESOURCES.get(f"{self._path}?{query}") or RESOURCES[self._path]
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", b"OPTIONS, POST")]})
            await send({"type": "http.response.body", "body": b""})
            return
        state = scope["state"]
        client = AsgiClient(send, [(name, state["request_id"].encode()) for name in resource.front.names])
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"The route {scope['path']} does not allow {scope['method']}.")
            services = services_of(scope)
            body = await read_body(scope, receive, services.body_limit)
        except ServiceError as error:
            state["log"].setdefault("error", error.code)
            await answer_error(client, error, resource.front)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        if headers.pop("content-encoding", None) is not None:
            headers["content-length"] = str(len(body))  # that of what it unpacked to
        if (named := scope["path_params"].get("deployment")) is not None:
            body = _naming(body, named)
        call = Call(state["request_id"], state["started"], headers, body)
        try:
            await race(respond(services, call, client, state["log"], resource), receive)
        finally:
            await client.hush()
