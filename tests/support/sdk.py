"""The OpenAI SDK in front of a live router, and the router in front of scripted upstreams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from tests.support.actor.stage import MANIFEST, act
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, ScriptedUpstream, SeenRequest, say, scripted_upstream

CLIENT_KEY = "sk-the-clients-own-key"
HELLO: Any = [{"role": "user", "content": "Hi"}]


@dataclass
class World:
    """A client, a router, and what stands behind it."""

    router: LiveRouter
    upstreams: list[ScriptedUpstream]
    openai: openai.AsyncOpenAI

    @property
    def seen(self) -> list[SeenRequest]:
        """What the first upstream saw."""
        return self.upstreams[0].requests

    async def ask(self, **fields: Any) -> Any:
        """Ask for a chat completion through the SDK."""
        return await self.openai.chat.completions.create(**{"model": "m", "messages": HELLO, **fields})

    async def stream(self, **fields: Any) -> list[Any]:
        """Ask for a streamed one; return its chunks."""
        return [chunk async for chunk in await self.ask(stream=True, **fields)]


@asynccontextmanager
async def world(
    folder: Path, *scripts: Script, manifest: str | None = None, retries: int = 0, **settings: Any
) -> AsyncIterator[World]:
    """Run a router in front of one upstream for each script.

    Args:
        folder: Where the registry goes.
        scripts: What the upstreams answer; one friendly upstream by default.
        manifest: What the registry declares, with `URL0`, `URL1` where addresses go; by default all
            serve the model `m`, in order.
        retries: How often the SDK itself tries again.
        settings: Overrides of the router's settings.
    """
    async with AsyncExitStack() as stack:
        upstreams = [
            await stack.enter_async_context(scripted_upstream(script)) for script in scripts or (say("Hello."),)
        ]
        text = manifest or manifest_for(*(upstream.url for upstream in upstreams))
        for index, upstream in enumerate(upstreams):
            text = text.replace(f"URL{index}", upstream.url)
        router = await stack.enter_async_context(live_router(folder, text, **settings))
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key=CLIENT_KEY, max_retries=retries, timeout=30)
        await stack.enter_async_context(client)
        yield World(router, upstreams, client)


@asynccontextmanager
async def acted(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """Run a router in front of the actor, which speaks every route; see `actor.stage.MANIFEST` for the models."""
    async with world(folder, act, manifest=MANIFEST, **settings) as there:
        yield there


def whole(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Script:
    """Return a script that answers every request with one JSON body."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(body, status, headers)

    return script


def events(*items: Any, done: bool = True, headers: dict[str, str] | None = None) -> Script:
    """Return a script that streams these events: objects as JSON data, bytes as they are."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream(headers)
        for item in items:
            await (reply.send(item) if isinstance(item, bytes) else reply.event(item))
        if done:
            await reply.event("[DONE]")
        await reply.end_stream()

    return script
