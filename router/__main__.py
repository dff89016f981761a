"""`python -m router`: settings, start-up checks, uvicorn; the parent of several workers or one of them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from pydantic import ValidationError

from router.admission import Doorkeeper, is_loopback
from router.main import create_app
from router.registry.build import build_catalog
from router.registry.database import StoreError
from router.registry.manifest import InvalidManifest, load_manifest
from router.registry.store import open_store
from router.server.calm import CalmServer
from router.server.protocol import DataPlaneProtocol, JsonProtocol
from router.settings import RouterSettings
from router.tracing import TracingUnavailable, require_tracing
from router.workers.acceptor import Acceptor
from router.workers.link import ParentLink
from router.workers.seat import Seat, remove_folder
from shared.allocator import return_large_blocks
from shared.collector import calm_collector
from shared.logs import logging_to_stderr

__all__ = ["main"]

_BACKLOG = 2048
_log = logging.getLogger("router")


class StartError(Exception):
    """The router must not or cannot start; the message says what to do."""


def check_start(settings: RouterSettings) -> None:
    """Check what would make every request fail, before anything is served.

    Raises:
        StartError: The registry or the manifest cannot be used, or the router would be open to
            the network.
    """
    if settings.otel_endpoint is not None:
        try:
            require_tracing()
        except TracingUnavailable as error:
            raise StartError(str(error)) from error
    try:
        store = open_store(settings.database_url or settings.sqlite_db_path)
    except StoreError as error:
        raise StartError(str(error)) from error
    try:
        if settings.registry_file is not None:
            store.apply(load_manifest(settings.registry_file))  # told in one line here, not from within the server
        catalog = build_catalog(store.load())
    except (InvalidManifest, StoreError) as error:
        raise StartError(str(error)) from error
    finally:
        store.close()
    if Doorkeeper(settings.auth).open(catalog) and settings.auth != "off" and not is_loopback(settings.host):
        raise StartError(
            f"The registry holds no API key, so {settings.host} would be open to the network. Create one with "
            "'routerctl keys create', or set ROUTER_HOST=127.0.0.1, or say ROUTER_AUTH=off if that is meant."
        )


def listen(host: str, port: int) -> socket.socket:
    """Return the socket that all workers accept from, bound once.

    Raises:
        StartError: The address is taken or is none of this machine's.
    """
    # With its protocol told: asyncio sets TCP_NODELAY only on connections that are said to be TCP's.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on nobody else gets the address, and a client that comes early waits.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(
            f"{host}:{port} cannot be listened on ({error.strerror}). Is a router running "
            "already? Set ROUTER_PORT (or ROUTER_HOST) to another."
        ) from error
    return listener


class _Server(CalmServer):
    """uvicorn's server: ends with success when it is told to, and at once when it is told twice.

    Args:
        config: What it serves.
        link: To the parent, where there is one.
        settle: Seconds in which everything is still answered after it has been told.
    """

    def __init__(self, config: uvicorn.Config, link: ParentLink | None, settle: float) -> None:
        super().__init__(config)
        self._link = link
        self._settle = settle
        self._leaving = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Obey SIGTERM and SIGINT, and the parent's end, while the context lasts."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self._link is not None:
            self._link.watch(loop, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if self._link is not None:
                self._link.close(loop)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say so."""
        if self._link is None:
            await super().startup(sockets)
            return
        await super().startup([])
        loop = asyncio.get_running_loop()
        for listener in sockets or ():
            acceptor = Acceptor(loop, listener, self._connection, lambda: len(self.server_state.connections))
            self.servers.append(acceptor)  # type: ignore[arg-type]
        self._link.ready()

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def stop(self) -> None:
        """Let load balancers look elsewhere, and then open answers end; the second time, wait for nothing."""
        again, self._leaving = self._leaving, True
        services = self.lifespan.state.get("services") if self.started else None
        if services is not None:
            services.presence.leaving = True
        if again or services is None or not self._settle:
            self.force_exit, self.should_exit = again, True
        else:
            asyncio.get_running_loop().call_later(self._settle, setattr, self, "should_exit", True)


def serve(settings: RouterSettings, listener: socket.socket, seat: Seat | None = None) -> int:
    """Serve until told to stop; return the exit code."""
    link = None if seat is None else ParentLink(seat.link)
    common = {} if seat is None else {"worker": seat.number}
    try:
        with logging_to_stderr(settings.log_level, "router.access", common) as access:
            config = uvicorn.Config(
                create_app(settings, access=access, seat=seat),
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                ws="none",
                http=DataPlaneProtocol if settings.http == "direct" else JsonProtocol,
                timeout_graceful_shutdown=settings.drain_seconds,
            )
            server = _Server(config, link, settings.settle_seconds)
            host, port = listener.getsockname()[:2]
            _log.info("listening", extra={"fields": {"host": host, "port": port}})
            calm_collector()
            return_large_blocks()
            server.run([listener])
    finally:
        if seat is not None and link is not None and link.lost:
            remove_folder(seat.metrics)  # whoever made it cannot any more
    return 0


def keep_workers(settings: RouterSettings, listener: socket.socket) -> int:
    """Become the parent of the workers: a process image without the libraries of the start-up checks."""
    plan = {
        "workers": settings.workers,
        "listener": listener.fileno(),
        "metrics": tempfile.mkdtemp(prefix="router-metrics-"),
        "drain": settings.settle_seconds + settings.drain_seconds,
        "stall": settings.stall_seconds,
        "log_level": settings.log_level,
    }
    listener.set_inheritable(True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "router.workers", json.dumps(plan)])  # noqa: S606


def main(arguments: Sequence[str] = ()) -> int:
    """Run the router until it is told to stop; return the exit code.

    Args:
        arguments: What the parent tells a worker; a person gives none.
    """
    seat = Seat.parse(arguments)
    try:
        settings = RouterSettings()
        if seat is not None:
            # Its parent has made the checks, and a worker that comes back must not undo a later `routerctl apply`.
            return serve(settings, socket.socket(fileno=seat.listener), seat)
        check_start(settings)
        listener = listen(settings.host, settings.port)
    except ValidationError as error:
        for problem in error.errors():
            print(f"router: {problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"router: {error}", file=sys.stderr)
        return 2
    if settings.workers > 1:
        return keep_workers(settings, listener)
    return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
