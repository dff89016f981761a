"""`python -m router`: settings, start-up checks, uvicorn."""

from __future__ import annotations

import socket
import sys

import uvicorn
from pydantic import ValidationError

from router.admission import Doorkeeper, is_loopback
from router.main import create_app
from router.registry.build import build_catalog
from router.registry.database import StoreError
from router.registry.manifest import InvalidManifest, load_manifest
from router.registry.store import open_store
from router.server.protocol import DataPlaneProtocol
from router.settings import RouterSettings
from router.tracing import TracingUnavailable, require_tracing
from shared.collector import calm_collector
from shared.logs import logging_to_stderr

__all__ = ["main"]


class StartError(Exception):
    """The router must not or cannot start; the message says what to do."""


def check_start(settings: RouterSettings) -> None:
    """Check what would make every request fail, before anything is served.

    Raises:
        StartError: The registry or the manifest cannot be used, the address is taken, or the
            router would be open to the network.
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
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}). Is a router running "
                "already? Set ROUTER_PORT (or ROUTER_HOST) to another."
            ) from error


def main() -> int:
    """Run the router until it is told to stop; return the exit code."""
    try:
        settings = RouterSettings()
        check_start(settings)
    except ValidationError as error:
        for problem in error.errors():
            print(f"router: {problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"router: {error}", file=sys.stderr)
        return 2
    with logging_to_stderr(settings.log_level, "router.access") as access:
        app = create_app(settings, access=access) if settings.workers == 1 else "router.main:create_app"
        calm_collector()
        uvicorn.run(
            app,
            factory=settings.workers > 1,
            workers=settings.workers,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            http=DataPlaneProtocol if settings.http == "direct" else "auto",
            timeout_graceful_shutdown=settings.drain_seconds,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
