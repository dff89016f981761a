"""The composition root: everything the router is made of is opened, wired and closed here."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.routing import Route

from router.accounting import Ledger
from router.admission import Doorkeeper, is_loopback
from router.api.admin import admin_router
from router.api.agents import agents_router
from router.api.deps import Services, add_error_handlers, services_of
from router.api.describe import describe_data_plane
from router.api.methods import HeadAsGet
from router.api.models import models_router
from router.api.ops import ops_router
from router.api.origins import AT_HOME, CrossOrigin, Origins
from router.api.responses import responses_router
from router.api.routes import AZURE, RESOURCES, DataPlaneRoute, error_shape
from router.backends.anthropic import AnthropicAdapter
from router.backends.estimates import EstimateAdapter
from router.backends.gemini import GeminiAdapter
from router.backends.local_agent import LocalAgentAdapter
from router.backends.openai_compatible import OpenAICompatibleAdapter
from router.cache.exact import ExactCache
from router.delivery.archive import Archive
from router.delivery.desk import DeliveryDesk
from router.delivery.pulse import Pulse
from router.discretion import Discretion
from router.dispatch import Dispatcher
from router.gateway import CatalogReader, Gateway
from router.health import HealthBoard
from router.interfaces import BackendAdapter, Bridges, Transport
from router.limits.keeper import LeaseKeeper
from router.limits.limiter import Limiter
from router.metrics import MetricsFolder, RouterMetrics
from router.outbox import Outbox
from router.registry.asking import Asker, Asks
from router.registry.catalog import CatalogSource
from router.registry.database import StoreError
from router.registry.discovery import Discovery, sources
from router.registry.manifest import load_manifest
from router.registry.roster import AgentRoster
from router.registry.store import RegistryStore, open_store
from router.registry.usage import UsageWriter
from router.retries import WaitingRoom
from router.settings import RouterSettings, read_secret
from router.state.memory import MemoryStore
from router.state.redis import RedisStore
from router.state.responses import ResponseStore
from router.tracing import Tracer, open_tracer
from router.transport.lean import LeanTransport
from router.upstream import Upstream
from router.wire.anthropic.bridge import MessagesBridge
from router.wire.responses.bridge import ResponsesBridge
from router.workers.seat import Seat
from shared.asgi import RequestContext, Scope
from shared.logs import AccessLog

__all__ = ["create_app", "open_services"]

_log = logging.getLogger("router")
_HOME = ("", "localhost", "127.0.0.1", "::1")
_PROBES = ("/healthz", "/readyz", "/metrics", "/agents/heartbeat")
_BRIDGES: Bridges = {"messages": MessagesBridge, "responses": ResponsesBridge}
"""How endpoints are carried over chat to backends that do not have them."""
_OWN_RESPONSES = 32 * 1024 * 1024
"""Bytes of responses that are kept in this process, where they cannot go to Redis."""
OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


@asynccontextmanager
async def open_services(
    settings: RouterSettings, access: AccessLog | None = None, seat: Seat | None = None
) -> AsyncIterator[Services]:
    """Open everything that requests need, and close it in reverse order.

    Args:
        settings: The router's settings.
        access: Where access lines go; None: to the logger `router.access`.
        seat: This process's place among several workers; None where it is alone.

    Raises:
        StoreError: The registry cannot be opened.
        InvalidManifest: `ROUTER_REGISTRY_FILE` is not valid.
    """
    async with AsyncExitStack() as stack:
        store, usage, catalog = await _open_registry(settings, stack, seat)
        state = RedisStore(settings.redis_url, settings.redis_budget_ms / 1000)
        stack.push_async_callback(state.close)
        outbox = Outbox(asyncio.get_running_loop())
        transport = _transport(settings.transport, outbox)
        stack.push_async_callback(transport.close)
        metrics = CollectorRegistry()
        counting = _counting(stack, metrics, seat)
        health = HealthBoard()
        cache = ExactCache(state, settings.cache_ttl, settings.cache_max_bytes, at_home=_at_home(settings))
        stack.push_async_callback(cache.drain)
        limiter = Limiter(seat.share if seat is not None else lambda limit: limit, shared=True)
        gateway = Gateway(
            catalog,
            health,
            _dispatcher(settings, Upstream(transport, read_secret), health, limiter, counting),
            Ledger(usage, counting),
            cache,
            Discretion(lambda: catalog.current.backends, read_secret),
            _tracer(settings, stack),
        )
        await state.connect()
        await _keep_leases(stack, limiter, state, catalog)
        await _in_background(stack, catalog.run())
        roster = AgentRoster(store)
        await _in_background(stack, roster.run())
        if seat is None or seat.first:
            # Backends are asked by one worker; all see in the registry what it finds.
            await _in_background(stack, _discovery(settings, store).run())
        yield Services(
            gateway=gateway,
            catalog=catalog,
            doorkeeper=Doorkeeper(settings.auth, loopback=is_loopback(settings.host)),
            health=health,
            state=state,
            metrics=metrics,
            store=store,
            roster=roster,
            body_limit=settings.body_limit,
            outbox=outbox,
            pulse=_pulse(settings, stack),
            responses=ResponseStore(
                state, MemoryStore(_OWN_RESPONSES), settings.responses_ttl, at_home=_at_home(settings)
            ),
            desk=_desk(settings, stack, state),
            access=access,
        )


async def _open_registry(
    settings: RouterSettings, stack: AsyncExitStack, seat: Seat | None
) -> tuple[RegistryStore, UsageWriter, CatalogSource]:
    """Open the registry, and read it for the first time."""
    store = await asyncio.to_thread(open_store, settings.database_url or settings.sqlite_db_path)
    stack.push_async_callback(asyncio.to_thread, store.close)
    if settings.registry_file is not None and seat is None:  # the parent of several workers has applied it
        await asyncio.to_thread(store.apply, load_manifest(settings.registry_file))
    # A server comes back from a restart in seconds, and this router's journals may go with its container.
    usage = UsageWriter(store, settings.sqlite_db_path, farewell=5.0 if settings.database_url else 0)
    stack.push_async_callback(asyncio.to_thread, usage.close)
    catalog = CatalogSource(store)
    await catalog.refresh()
    if not catalog.loaded:
        # An empty catalog holds no keys and would open every door.
        raise StoreError(catalog.problem or "The registry cannot be read.")
    return store, usage, catalog


def _dispatcher(
    settings: RouterSettings, upstream: Upstream, health: HealthBoard, limiter: Limiter, counting: RouterMetrics
) -> Dispatcher:
    adapters: dict[str, BackendAdapter] = {
        "openai": OpenAICompatibleAdapter(upstream),
        "local_agent": LocalAgentAdapter(upstream),
        "gemini": GeminiAdapter(upstream),
        "anthropic": AnthropicAdapter(upstream),
    }
    return Dispatcher(
        adapters,
        health,
        settings.attempts,
        settings.deadline,
        limiter=limiter,
        bridges=_BRIDGES,
        stand_ins={"count_tokens": EstimateAdapter()},
        hedged=counting.hedge,
        room=WaitingRoom(settings.cold_start_seconds, settings.cold_start_requests, counting.hold),
    )


def _at_home(settings: RouterSettings) -> bool:
    """Return whether Redis is on this machine."""
    return (urlsplit(settings.redis_url).hostname or "") in _HOME


def _pulse(settings: RouterSettings, stack: AsyncExitStack) -> Pulse:
    pulse = Pulse(asyncio.get_running_loop(), settings.ping_seconds)
    stack.callback(pulse.close)
    return pulse


def _desk(settings: RouterSettings, stack: AsyncExitStack, state: RedisStore) -> DeliveryDesk | None:
    if settings.idempotency_ttl <= 0:
        return None
    archive = Archive(state, MemoryStore(), settings.idempotency_ttl, at_home=_at_home(settings))
    desk = DeliveryDesk(archive, settings.resume_seconds, settings.deadline, settings.replay_max_bytes)
    stack.push_async_callback(desk.close)
    return desk


async def _keep_leases(stack: AsyncExitStack, limiter: Limiter, state: RedisStore, catalog: CatalogSource) -> None:
    """Get the first leases, and renew them until the stack closes."""
    keeper = LeaseKeeper(limiter, state, lambda: catalog.current, f"{os.getpid()}-{secrets.token_hex(8)}")
    await keeper.renew()
    stack.push_async_callback(keeper.close)
    await _in_background(stack, keeper.run())


def _tracer(settings: RouterSettings, stack: AsyncExitStack) -> Tracer | None:
    if settings.otel_endpoint is None:
        return None
    tracer = open_tracer(settings.otel_endpoint, settings.otel_service_name, settings.otel_sample_ratio)
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer


def _counting(stack: AsyncExitStack, registry: CollectorRegistry, seat: Seat | None) -> RouterMetrics:
    """Return the metrics, shared with the other workers where there are any."""
    if seat is None:
        return RouterMetrics(registry)
    folder = MetricsFolder(seat.metrics)
    metrics = RouterMetrics(registry, folder)
    stack.enter_context(folder.sharing(metrics.dump))
    return metrics


def _discovery(settings: RouterSettings, store: RegistryStore) -> Discovery:
    named = sources(
        local_agent_url=settings.local_agent_url,
        llmd_endpoint=settings.llmd_endpoint,
        llmd_models=settings.llmd_models,
        llmd_every=settings.llmd_refresh_seconds,
        secrets=read_secret,
    )
    return Discovery(
        named,
        store,
        _asker(settings.transport),
        read_secret,
        cluster_every=settings.llmd_refresh_seconds,
        shared=settings.database_url is not None,
    )


def _asker(kind: str) -> Asks:
    if kind == "lean":
        return Asker()
    from router.registry.asking_through import HttpxAsker  # noqa: PLC0415 - as in `_transport`

    return HttpxAsker()


def _transport(kind: str, outbox: Outbox) -> Transport:
    if kind == "lean":
        return LeanTransport(outbox=outbox)
    # httpx costs every start a tenth of its time and five megabytes, also where nobody has chosen it.
    from router.transport.general import HttpxTransport  # noqa: PLC0415

    return HttpxTransport()


async def _in_background(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until the stack closes."""
    task = asyncio.get_running_loop().create_task(work)

    async def stop() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


def create_app(
    settings: RouterSettings | None = None,
    services: OpenServices | None = None,
    access: AccessLog | None = None,
    seat: Seat | None = None,
) -> FastAPI:
    """Return the router's ASGI application.

    Args:
        settings: Where None, they are read from the environment.
        services: Opens the services; tests may bring their own.
        access: Where access lines go; None: to the logger `router.access`.
        seat: This process's place among several workers; None where it is alone.
    """
    chosen = settings or RouterSettings()
    opened = services or (lambda: open_services(chosen, access, seat))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with opened() as ready:
            yield {"services": ready}

    app = FastAPI(title="Inference router", version="0.1.0", lifespan=lifespan, redirect_slashes=False)
    app.add_middleware(HeadAsGet)
    origins = Origins((*AT_HOME, *chosen.cors_origins.split(",")) if chosen.cors_origins else AT_HOME)
    app.add_middleware(CrossOrigin, origins=origins, shape=error_shape, loopback=is_loopback(chosen.host))
    app.add_middleware(RequestContext, logger=logging.getLogger("router.access"), quiet=_PROBES, access=access)
    add_error_handlers(app, error_shape)
    # A class endpoint is plain ASGI: the request path owes nothing to the framework.
    # The longest first: a deployment's name may hold slashes, and end in what is a shorter path's beginning.
    for path in sorted({name.partition("?")[0] for name in RESOURCES}, key=len, reverse=True):
        app.router.routes.append(Route(path, DataPlaneRoute(path)))
        app.router.routes.append(Route(AZURE + path.removeprefix("/v1"), DataPlaneRoute(path)))
    app.include_router(models_router())
    app.include_router(responses_router())
    app.include_router(ops_router())
    app.include_router(agents_router(_roster, _catalog, _plain(chosen.agent_token)))
    app.include_router(admin_router(_store, _catalog, _plain(chosen.admin_key)))
    describe_data_plane(app)
    return app


def _roster(scope: Scope) -> AgentRoster:
    return services_of(scope).roster


def _catalog(scope: Scope) -> CatalogReader:
    return services_of(scope).catalog


def _store(scope: Scope) -> RegistryStore:
    return services_of(scope).store


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value() or None
