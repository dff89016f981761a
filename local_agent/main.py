"""The agent's composition root: `uvicorn local_agent.main:app`, or `uvicorn main:app` inside this folder."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Inside the folder, its modules would shadow the standard library's (`types`): the folder goes, its parent comes.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parent), *(path for path in sys.path if Path(path or ".").resolve() != _HERE)]

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

from fastapi import FastAPI

from local_agent.announcer import Announcer, Identity, agent_id, reachable_url
from local_agent.api import errors, infer, models, openai, ops
from local_agent.api.deps import Services, model_entries
from local_agent.metrics import Metrics
from local_agent.settings import AgentSettings, worker_environment
from local_agent.supervisor import Limits, Supervisor
from local_agent.types import Configure
from shared.asgi import RequestContext
from shared.logs import logging_to_stderr

__all__ = ["create_app"]

_log = logging.getLogger("local_agent")
_access = logging.getLogger("local_agent.access")
# The router asks for the models every few seconds, which is a probe too.
_PROBES = ("/healthz", "/readyz", "/metrics", "/v1/models")
_DISTRIBUTION = "inference-router"


def _version() -> str:
    try:
        return version_of(_DISTRIBUTION)
    except PackageNotFoundError:  # run from a bare checkout
        return "0.0.0"


def _supervisor(settings: AgentSettings) -> Supervisor:
    configure = Configure(
        model=settings.model,
        cache_dir=str(settings.cache_dir),
        device=settings.device,
        threads=settings.threads,
        max_running=settings.max_running,
        log_level=settings.log_level,
        context_length=settings.context_length,
        hub_token=settings.hub_token.get_secret_value() if settings.hub_token else None,
        hang_limit_s=max(60.0, 4 * settings.stall_timeout_s),
    )
    limits = Limits(settings.max_running, settings.queue_limit, settings.stall_timeout_s, settings.load_timeout_s)
    return Supervisor(configure, worker_environment(), limits)


def _announcer(settings: AgentSettings, services: Services, router_url: str) -> Announcer:
    identity = Identity(
        id=agent_id(settings.cache_dir, settings.name, settings.port),
        name=settings.name,
        url=settings.public_url or reachable_url(settings.host, settings.port, router_url),
        version=services.version,
    )
    token = settings.token.get_secret_value() if settings.token else None
    supervisor = services.supervisor
    return Announcer(
        router_url, token, identity, supervisor.status, supervisor.wait_ready, lambda: model_entries(services)
    )


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Run a task while the context lasts; a task that ends by an error says so in the log."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_complain)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("a background task has ended", exc_info=error, extra={"fields": {"task": task.get_name()}})


@contextlib.asynccontextmanager
async def open_services(settings: AgentSettings) -> AsyncIterator[Services]:
    """Start everything that outlives a request, and end it, the worker process included."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(logging_to_stderr(settings.log_level))
        if settings.host not in ("127.0.0.1", "::1", "localhost"):
            _log.warning("listening beyond this machine without authentication: anybody who reaches it may use it")
        supervisor = _supervisor(settings)
        services = Services(
            supervisor=supervisor,
            metrics=Metrics(supervisor.status),
            requested_model=settings.model,
            body_limit=settings.body_limit,
            version=_version(),
        )
        await stack.enter_async_context(_running(supervisor.run(), "supervisor"))
        if settings.router_url:
            announcer = _announcer(settings, services, settings.router_url)
            await stack.enter_async_context(_running(announcer.run(), "announcer"))
        yield services


def create_app(settings: AgentSettings) -> FastAPI:
    """Return the agent's application.

    Args:
        settings: Where and what to serve.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Local agent",
        description="Inference on this machine, for a router or on its own.",
        version=_version(),
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for resource in (infer, openai, models, ops):
        app.include_router(resource.router)
    errors.install(app)
    app.add_middleware(RequestContext, logger=_access, quiet=_PROBES)
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` on demand, so that importing this module reads no settings."""
    if name == "app":
        return create_app(AgentSettings())
    raise AttributeError(name)
