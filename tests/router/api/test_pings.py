"""Signs of life to a client whose stream is silent, on both fronts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, fail, say, scripted_upstream

FRONTS = pytest.mark.parametrize("http", ["direct", "asgi"])
PING = ": ping\n\n"


@asynccontextmanager
async def streaming(router: LiveRouter) -> AsyncIterator[httpx.Response]:
    """A streamed chat whose head has come."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with router.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        yield answer


async def read_on(answer: httpx.Response, heard: asyncio.Event, pings: int = 1) -> str:
    """Return a stream's whole text; `heard` is set once so many pings have come."""
    text = ""
    async for piece in answer.aiter_text():
        text += piece
        if text.count(PING) >= pings:
            heard.set()
    return text


@FRONTS
async def test_stream_gets_its_head_and_pings_while_the_backend_thinks(tmp_path: Path, http: str) -> None:
    """Before the first word: 200, the ids known so far, pings; then the answer, with nothing else between."""
    thought = asyncio.Event()

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await thought.wait()
        await say("a b c")(request, reply)

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http, ping_seconds=0.05) as router:
            async with streaming(router) as answer:
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert answer.headers["x-request-id"].startswith("req_")
                assert answer.headers["x-router-decision-id"].startswith("dec_")
                assert "content-length" not in answer.headers
                text = await read_on(answer, thought, 3)
            assert text.startswith(PING * 3)
            silent = await router.chat(stream=True)
            assert text.replace(PING, "") == silent.text.replace(PING, "")


@FRONTS
async def test_fallback_works_behind_a_ping(tmp_path: Path, http: str) -> None:
    """A backend that fails after a ping is followed by the next, and the client hears of neither."""
    heard = asyncio.Event()

    async def dies(_request: SeenRequest, reply: ScriptedReply) -> None:
        await heard.wait()
        reply.cut()

    async with scripted_upstream(dies) as bad, scripted_upstream(say("saved")) as good:
        manifest = manifest_for(bad.url, good.url)
        async with live_router(tmp_path, manifest, http=http, ping_seconds=0.05) as router:
            async with streaming(router) as answer:
                text = await read_on(answer, heard)
            assert "saved" in text
            assert text.endswith("data: [DONE]\n\n")
            assert "error" not in text


@FRONTS
async def test_error_after_a_ping_is_a_well_formed_event(tmp_path: Path, http: str) -> None:
    """The status is out, so the stream ends with the error as its one event, and the connection lives on."""
    heard = asyncio.Event()

    async def fails(request: SeenRequest, reply: ScriptedReply) -> None:
        await heard.wait()
        await fail(400, {"error": {"message": "no", "type": "invalid_request_error", "code": "bad"}})(request, reply)

    async with scripted_upstream(fails) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http, ping_seconds=0.05) as router:
            async with streaming(router) as answer:
                assert answer.status_code == 200
                text = await read_on(answer, heard)
            events = text.replace(PING, "").split("\n\n")
            assert events[1:] == [""]
            assert json.loads(events[0].removeprefix("data: "))["error"]["code"] == "bad"
            upstream.script = say("fine")
            assert (await router.chat()).status_code == 200


@FRONTS
async def test_pings_come_between_whole_events(tmp_path: Path, http: str) -> None:
    """A backend that stops in the middle of an event gets pings before that event, never within it."""
    heard = asyncio.Event()
    event = f"data: {json.dumps(chunk({'content': 'slowly'}))}\n\n".encode()

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "begun"}))
        await reply.send(event[:40])
        await heard.wait()
        await reply.send(event[40:])
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http, ping_seconds=0.05) as router:
            client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
            async with streaming(router) as answer:
                text = await read_on(answer, heard, 2)
            assert event.decode() in text
            heard.clear()
            asyncio.get_running_loop().call_later(0.2, heard.set)
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            said = [event.choices[0].delta.content async for event in stream]
            assert "".join(filter(None, said)) == "begunslowly"
            await client.close()


@FRONTS
async def test_stream_without_silence_has_no_ping(tmp_path: Path, http: str) -> None:
    """Pings that are turned off never come, and a head then waits for the first word."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await asyncio.sleep(0.3)
        await fail(503)(request, reply)

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http, ping_seconds=0) as router:
            assert (await router.chat(stream=True)).status_code == 503
            upstream.script = say("quick")
            assert "ping" not in (await router.chat(stream=True)).text
