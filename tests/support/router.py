"""A live router on a port, inside the test's own event loop, over a real registry file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from router.__main__ import listen
from router.api.deps import Services
from router.main import create_app, open_services
from router.registry.manifest import parse_manifest
from router.registry.store import RegistryStore, open_store
from router.server.protocol import DataPlaneProtocol, JsonProtocol
from router.settings import RouterSettings

NO_REDIS = "redis://127.0.0.1:1/0"
"""An address where no Redis listens."""


@dataclass
class LiveRouter:
    """The running router and a client of it."""

    url: str
    client: httpx.AsyncClient
    store: RegistryStore
    services: Services

    async def refresh(self) -> None:
        """Let the router look at its registry now, rather than at its next poll."""
        await self.services.catalog.refresh()

    async def chat(self, content: str = "Hi", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Send one chat request."""
        whole = {"model": "m", "messages": [{"role": "user", "content": content}], **body}
        return await self.client.post("/v1/chat/completions", json=whole, headers=headers)


def manifest_for(*urls: str, models: str = "m", **backend: Any) -> str:
    """Return a manifest with a backend for each URL, all serving one model in that order."""
    lines = ["backends:"]
    for index, url in enumerate(urls):
        lines.append(f"  - {{name: b{index}, dialect: openai, base_url: '{url}', tier: external")
        lines[-1] += "".join(f", {key}: {value}" for key, value in backend.items()) + "}"
    lines += ["models:", f"  - id: {models}", "    aliases: [m-alias]", "    deployments:"]
    for index, _ in enumerate(urls):
        price = "{input: 1, output: 2}"
        lines.append(f"      - {{backend: b{index}, upstream_model: up-{index}, price: {price}, priority: {index}}}")
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def live_router(tmp_path: Path, manifest: str | None = None, **settings: Any) -> AsyncIterator[LiveRouter]:
    """Run a router on a free port while the context lasts.

    Args:
        tmp_path: Where its registry goes.
        manifest: What the registry declares.
        settings: Overrides of `RouterSettings`; Redis is away unless `redis_url` says otherwise.
    """
    path = tmp_path / "models.db"
    store = await asyncio.to_thread(open_store, path)
    if manifest is not None:
        await asyncio.to_thread(store.apply, parse_manifest(manifest))
    given = {"redis_url": NO_REDIS, "local_agent_url": "off", "sqlite_db_path": path, **settings}
    opened: list[Services] = []

    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        async with open_services(RouterSettings(**given)) as ready:
            opened.append(ready)
            yield ready

    chosen = RouterSettings(**given)
    app = create_app(chosen, services)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    http: Any = DataPlaneProtocol if chosen.http == "direct" else JsonProtocol
    config = uvicorn.Config(app, http=http, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve([listener]))
    try:
        while not server.started:
            if serving.done():
                serving.result()
                raise RuntimeError("the router did not start")
            await asyncio.sleep(0.005)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            yield LiveRouter(url, client, store, opened[0])
    finally:
        server.should_exit = True
        await serving
        await asyncio.to_thread(store.close)
