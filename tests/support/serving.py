"""A bare ASGI application on a real port, under the context that surrounds every request."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn

from shared.asgi import ASGIApp, Receive, RequestContext, Scope, Send, read_body, send_json
from tests.support.waiting import eventually

LOG = logging.getLogger("tests.asgi")
"""Where the access lines go."""


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` on a real port, under the context of every request."""
    config = uvicorn.Config(
        RequestContext(app, LOG),  # type: ignore[arg-type]
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server._serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        await task


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what came."""
    body = await read_body(scope, receive, 1000)
    await send_json(send, 200, json.dumps({"size": len(body), **scope["state"]}, default=str).encode())
