"""The data plane: which path is which resource, and how each is reached through ASGI."""

from __future__ import annotations

from collections.abc import Mapping

from router.api.chat import CHAT
from router.api.client import AsgiClient, Call, answer_error
from router.api.completions import COMPLETIONS
from router.api.deps import services_of
from router.api.embeddings import EMBEDDINGS
from router.api.messages import COUNT_TOKENS, COUNT_TOKENS_BETA, MESSAGES, MESSAGES_BETA
from router.api.respond import Resource, respond
from router.api.responses import RESPONSES
from shared.asgi import Receive, Scope, Send, race, read_body
from shared.errors import MethodNotAllowed, ServiceError

__all__ = ["RESOURCES", "DataPlaneRoute"]

RESOURCES: Mapping[str, Resource] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/messages?beta=true": MESSAGES_BETA,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/messages/count_tokens?beta=true": COUNT_TOKENS_BETA,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
}
"""Path, with a query where that makes a difference, to resource."""


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
        call = Call(state["request_id"], state["started"], headers, body)
        try:
            await race(respond(services, call, client, state["log"], resource), receive)
        finally:
            await client.hush()
