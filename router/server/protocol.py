"""DataPlaneProtocol: uvicorn's HTTP protocol, with a shorter way for the data plane.

A plain `POST` to a data-plane route is read, answered and written here, in callbacks and one task,
without ASGI's messages in between. Whatever is unusual about a request (another route or method, a
body of unknown or too large a size, a compressed one, `Expect`, an upgrade, a web page's, a pipelined request)
goes the ordinary way through ASGI, whose routes are the same and answer the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from router.api.deps import Services
from router.api.respond import Resource
from router.api.routes import RESOURCES
from router.server.exchange import DataPlaneExchange
from shared.errors import InvalidRequest
from shared.ids import IdSource

__all__ = ["DataPlaneProtocol", "JsonProtocol"]

_ROUTES: Mapping[bytes, Resource] = {path.encode(): resource for path, resource in RESOURCES.items()}
_UNUSUAL = ("transfer-encoding", "content-encoding", "expect", "upgrade", "origin")

_LINGER = 1
"""Seconds that a connection which was promised to stay outlives its answer, as the router leaves."""

_make_id = IdSource("req_").make


class JsonProtocol(HttpToolsProtocol):
    """uvicorn's protocol, but for what it says to a client that speaks no HTTP, and as the router leaves.

    Args: as uvicorn gives them; the services are in the application's state.
    """

    cycle: Any
    """The present request: uvicorn's own kind, or ours."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._services: Services | None = app_state.get("services")

    def on_headers_complete(self) -> None:
        """Hand a request to ASGI; where the router leaves, its answer ends the connection."""
        super().on_headers_complete()
        if self._services is not None and self._services.presence.leaving and self.cycle is not None:
            self.cycle.keep_alive = False  # it has not begun yet, and will say so

    def shutdown(self) -> None:
        """Close the connection once its answer is out, or shortly after where the client has not been told.

        A client that was promised the connection may send its next request the moment it has its answer: that is
        answered too, and told that it was the last.
        """
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            super().shutdown()
            return
        self.timeout_keep_alive = _LINGER
        self._unset_keepalive_if_required()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in JSON as everything else."""
        body = InvalidRequest(msg).json()
        lines = [b"HTTP/1.1 400 Bad Request", b"content-type: application/json", b"content-length: %d" % len(body)]
        lines += [b"%b: %b" % (name, value) for name, value in self.server_state.default_headers]
        lines += [b"x-request-id: " + _make_id().encode(), b"connection: close", b"", body]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()


class DataPlaneProtocol(JsonProtocol):
    """One client connection.

    Args: as its parent's.
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._exchange: DataPlaneExchange | None = None
        self._idle_since: float | None = None

    def on_message_begin(self) -> None:
        """Begin a request; what ASGI wants to know of it is gathered once it is clear that it goes there."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def _leave_to_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def on_headers_complete(self) -> None:
        """Take a data-plane request, or leave it to ASGI."""
        resource = _ROUTES.get(self.url)
        exchange = None if resource is None else self._taken(resource)
        if exchange is None:
            self._leave_to_asgi()
        else:
            self._exchange = self.cycle = exchange

    def _taken(self, resource: Resource) -> DataPlaneExchange | None:
        """Return the exchange for a request that is plain enough, or None."""
        parser, services = self.parser, self._services
        if services is None or parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        if (self.cycle is not None and not self.cycle.response_complete) or self.limit_concurrency is not None:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > services.body_limit:
            return None
        for name in _UNUSUAL:
            if name in headers:
                return None
        return DataPlaneExchange(self, services, resource, headers, int(length), parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        """Keep a part of the request's body."""
        if self.cycle is self._exchange and self._exchange is not None:
            self._exchange.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer the request: it has come whole."""
        exchange = self._exchange
        if exchange is None or self.cycle is not exchange:
            super().on_message_complete()
        elif not exchange.response_complete:
            exchange.start(self.loop)

    # A timer for each answer would be made only to be cancelled by the next request. One timer for the
    # connection looks, whenever it fires, at how long the connection has really been idle.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def on_response_complete(self) -> None:
        """Serve the next request that has come already, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def _look_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for long enough."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_after(left)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Close the connection in its time; see the parent's."""
        self._flush()
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, behind the answers that were given before."""
        self._flush()
        super().send_400_response(msg)

    def _flush(self) -> None:
        if self._services is not None:
            self._services.outbox.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop working for a client that has left."""
        if self._exchange is not None:
            self._exchange.lost()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)
