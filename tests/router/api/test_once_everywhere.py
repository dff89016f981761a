"""`Idempotency-Key` and pings on every endpoint: what holds for chat holds for all."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.api.routes import RESOURCES
from tests.router.api.test_once import KEY, ids_of
from tests.router.test_gateway import usage_rows
from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, say, scripted_upstream

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/messages?beta=true": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
}
PATHS = pytest.mark.parametrize("path", [path for path in BODIES if path in RESOURCES])


@PATHS
@pytest.mark.parametrize("stream", [False, True])
async def test_key_holds_on_every_endpoint(tmp_path: Path, path: str, stream: bool) -> None:
    """The same again is the same bytes; under another path the key is taken; every event can be resumed from."""
    body = {"model": "m", **BODIES[path], "stream": stream}
    async with scripted_upstream(say("one two three")) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:

            async def ask(headers: dict[str, str], where: str = path) -> httpx.Response:
                return await router.client.post(where, json=body, headers={**KEY, **headers})

            first, again = await ask({}), await ask({})
            assert first.status_code == 200, first.text
            assert again.content == first.content
            assert again.headers["x-router-idempotent-replay"] == "true"
            elsewhere = next(other for other in BODIES if other.partition("?")[0] != path.partition("?")[0])
            taken = await router.client.post(elsewhere, json={"model": "m", **BODIES[elsewhere]}, headers=KEY)
            assert taken.status_code == 409
            assert "Idempotency-Key" in taken.text
            assert ("type" in taken.json()) == elsewhere.startswith("/v1/messages")
            events = [event + "\n\n" for event in first.text.split("\n\n")[:-1]]
            for count, last in enumerate(ids_of(first.text), start=1):
                assert (await ask({"last-event-id": last})).text == "".join(events[count:])
            assert len(ids_of(first.text)) == (len(events) if stream else 0)
            assert len(upstream.requests) == 1
    assert len(await usage_rows(tmp_path, 1)) == 1


@PATHS
@pytest.mark.parametrize("headers", [{}, KEY], ids=["plain", "keyed"])
async def test_silent_stream_is_kept_alive_on_every_endpoint(
    tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    """Each endpoint's clients get the sign of life that they know, and the same events as without."""
    heard = asyncio.Event()

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await heard.wait()
        await say("one two")(request, reply)

    body = {"model": "m", **BODIES[path], "stream": True}
    ping = 'event: ping\ndata: {"type": "ping"}\n\n' if path.startswith("/v1/messages") else ": ping\n"
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), ping_seconds=0.05) as router:
            async with router.client.stream("POST", path, json=body, headers=headers) as answer:
                assert answer.status_code == 200
                text = ""
                async for piece in answer.aiter_text():
                    text += piece
                    if text.count(ping) > 1:
                        heard.set()
            assert text.startswith(ping * 2 if headers or path.startswith("/v1/messages") else f"{ping}\n")
            assert "two" in text
            assert re.search(r"data: \[DONE\]|message_stop|response\.completed", text)
