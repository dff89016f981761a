"""Which web pages may call the router from a browser, and how they are told so (CORS)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from router.api.deps import Shape, services_of
from shared.asgi import ASGIApp, Message, Receive, Scope, Send, header, send_json
from shared.errors import Forbidden

__all__ = ["AT_HOME", "CrossOrigin", "Origins"]

AT_HOME = (
    "http://localhost:*",
    "https://localhost:*",
    "http://*.localhost:*",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://[::1]:*",
    "https://[::1]:*",
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-file://*",
    "vscode-webview://*",
)
"""Pages of this machine, and programs that are made of pages: none of them is a site on the web."""
_EXPOSED = (
    b"x-request-id, request-id, retry-after, x-router-attempts, x-router-backend, x-router-cache, x-router-changes, "
    b"x-router-cost-usd, x-router-decision-id, x-router-idempotent-replay, x-router-model, x-router-overhead-ms, *"
)
_METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"


def _pattern(origin: str) -> str:
    """Return the expression for an origin in which `*` stands for any name, or behind a colon for any port."""
    if origin == "*":
        return ".*"
    base, any_port = (origin[:-2], r"(:\d+)?") if origin.endswith(":*") else (origin, "")
    return r"[^/:@]*".join(map(re.escape, base.split("*"))) + any_port


class Origins:
    """Says of an origin whether its pages may call.

    Args:
        allowed: Origins; `*` in one stands for any name, or behind a colon for any port, and alone for every page.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        expression = "|".join(_pattern(origin.rstrip("/").lower()) for origin in allowed)
        self._known = re.compile(expression or r"(?!)")

    def allow(self, origin: str) -> bool:
        """Return whether pages of an origin may call."""
        return self._known.fullmatch(origin.lower()) is not None


class CrossOrigin:
    """Pure ASGI middleware: lets the pages of allowed origins call, and keeps all others out of an open door.

    A router that asks for no key is open to whoever reaches it, and any page in a browser on this machine does.

    Args:
        app: The application inside.
        origins: Whose pages may call.
        shape: How errors are told.
        loopback: Whether only this machine can call. Where others can, a page that the router's own host serves
            may too; on this machine, a name other than its own is a page's trick to look like that.
    """

    def __init__(self, app: ASGIApp, origins: Origins, shape: Shape, *, loopback: bool) -> None:
        self._app = app
        self._origins = origins
        self._shape = shape
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        origin = header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None:
            await self._app(scope, receive, send)
        elif self._origins.allow(origin):
            await self._answer(origin, scope, receive, send)
        elif self._is_open(scope) and not self._is_own(origin, scope):
            await self._refuse(origin, scope, send)
        else:
            await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        services = services_of(scope)
        return services.doorkeeper.open(services.catalog.current)

    def _is_own(self, origin: str, scope: Scope) -> bool:
        return not self._loopback and origin.partition("://")[2].lower() == (header(scope, b"host") or "").lower()

    async def _refuse(self, origin: str, scope: Scope, send: Send) -> None:
        error = Forbidden(
            f"Pages of {origin[:200]!r} may not call this router, which asks for no key. Name the origin in "
            "ROUTER_CORS_ORIGINS if they are meant to."
        )
        error.code = "origin_not_allowed"
        scope["state"]["log"].setdefault("error", error.code)
        await send_json(send, *self._shape(scope)(error))

    async def _answer(self, origin: str, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        granted = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]
        if scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None:
            await _grant(granted, scope, send)
            return

        async def send_granted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *granted, (b"access-control-expose-headers", _EXPOSED)]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_granted)


async def _grant(granted: list[tuple[bytes, bytes]], scope: Scope, send: Send) -> None:
    """Answer a preflight request: whatever headers the page wants to send, it may."""
    headers = [*granted, (b"access-control-allow-methods", _METHODS), (b"access-control-max-age", b"600")]
    if (asked := header(scope, b"access-control-request-headers")) is not None:
        headers.append((b"access-control-allow-headers", asked.encode("latin-1")))
    if header(scope, b"access-control-request-private-network") is not None:
        headers.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
