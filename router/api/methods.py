"""HEAD and OPTIONS, which every route answers without saying so itself."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match

from shared.asgi import ASGIApp, Receive, Scope, Send

__all__ = ["HeadAsGet", "allowed_methods"]

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class HeadAsGet:
    """Pure ASGI middleware: HEAD is GET whose body the server leaves out.

    Args:
        app: The application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server looks at its own
        await self._app(scope, receive, send)


def allowed_methods(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """Return what `Allow` says of a path: the methods of all its routes, and those that every route has."""
    methods = {"OPTIONS"}
    for method in _METHODS:
        asked = {**scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in routes):
            methods.add(method)
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))
