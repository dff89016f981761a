"""A router process in front of a cluster: the chart's Envoy, and vLLM behind it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from scripts.vllm.entrance import Entrance, entrance
from scripts.vllm.processes import MODEL, Engine
from tests.support.process import Service, router_process, routerctl
from tests.support.waiting import eventually

__all__ = ["HELLO", "LONG", "Cluster", "cluster", "counted", "declared", "error_of"]

HELLO: Any = [{"role": "user", "content": "Hi"}]
LONG: dict[str, Any] = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}
"""Makes an answer that takes many seconds."""


@dataclass
class Cluster:
    """A client, a router, and the entrance behind it."""

    router: Service
    entrance: Entrance
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI

    async def models(self) -> dict[str, Any]:
        """Return the models of the cluster that the router lists."""
        listed = (await self.http.get("/v1/models")).json()["data"]
        return {item["id"]: item for item in listed if item["id"].startswith(MODEL)}

    async def chat(self, **fields: Any) -> Any:
        """Ask for a chat through the SDK."""
        return await self.openai.chat.completions.create(**{"model": MODEL, "messages": HELLO, **fields})

    async def events(self, **fields: Any) -> list[str]:
        """Return the events of a streamed chat, as the router writes them."""
        return [event async for event in self.told(**fields)]

    async def told(self, **fields: Any) -> AsyncIterator[str]:
        """Yield the events of a streamed chat as they come."""
        body = {"model": MODEL, "messages": HELLO, "stream": True, **fields}
        body |= body.pop("extra_body", {})
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield line[6:]


@asynccontextmanager
async def cluster(folder: Path, worker: Engine, manifest: str | None = None) -> AsyncIterator[Cluster]:
    """Run an entrance before a worker, and a router before the entrance, while the context lasts.

    Args:
        folder: Where the router's registry goes.
        worker: The worker.
        manifest: What the registry declares, with `URL` where the entrance's address goes; by default the router
            discovers the cluster by itself.
    """
    async with entrance(worker.port) as door:
        settings = {"LLMD_REFRESH_SECONDS": "1", "ROUTER_COLD_START_SECONDS": "0"}
        if manifest is None:
            settings["LLMD_ENDPOINT"] = door.envoy.url
        else:
            file = folder / "registry.yaml"
            file.write_text(manifest.replace("URL", door.envoy.url), encoding="utf-8")
            applied = await asyncio.to_thread(routerctl, folder, "apply", "-f", str(file))
            assert applied.returncode == 0, applied.stderr
        start = router_process(folder, settings)
        router = await asyncio.to_thread(start.__enter__)
        try:
            async with httpx.AsyncClient(base_url=router.url, timeout=120, trust_env=False) as http:
                async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0) as client:
                    there = Cluster(router, door, http, client)

                    async def known() -> bool:
                        return MODEL in await there.models()

                    await eventually(known, 60)
                    yield there
        finally:
            await asyncio.to_thread(start.__exit__, None, None, None)


def declared(*urls: str, capabilities: str = "chat, prefill") -> str:
    """Return a manifest: the model at several places, in this order."""
    lines = ["backends:"]
    lines += [f"  - {{name: b{n}, dialect: openai, base_url: '{url}/v1', tier: cluster}}" for n, url in enumerate(urls)]
    places = (f"{{backend: b{n}, price: {{input: 1, output: 2}}, priority: {n}}}" for n, _ in enumerate(urls))
    lines += ["models:", f"  - id: {MODEL}", f"    capabilities: [{capabilities}]"]
    return "\n".join([*lines, f"    deployments: [{', '.join(places)}]"]) + "\n"


async def counted(worker: Engine, metric: str, **labels: str) -> float:
    """Return a metric of vLLM."""
    async with httpx.AsyncClient(trust_env=False) as client:
        page = (await client.get(f"{worker.url}/metrics")).text
    found = 0.0
    for line in page.splitlines():
        told = re.fullmatch(rf"{re.escape(metric)}\{{(.*)\}} (\S+)", line)
        if told and all(f'{name}="{value}"' in told[1] for name, value in labels.items()):
            found += float(told[2])
    return found


def error_of(event: str) -> Any:
    """Return the error that an event tells, or None."""
    return None if event == "[DONE]" else json.loads(event).get("error")
