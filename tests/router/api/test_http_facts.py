"""What every answer of the data plane has, however it ends, on both fronts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, fail, say, scripted_upstream

FRONTS = pytest.mark.parametrize("http", ["direct", "asgi"])
MESSAGE = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}


async def cut(_request: SeenRequest, reply: ScriptedReply) -> None:
    """Break off after the first word."""
    await reply.start_stream()
    await reply.event(chunk({"role": "assistant", "content": "half"}))
    reply.cut()


@FRONTS
async def test_every_answer_names_its_request_once(tmp_path: Path, http: str) -> None:
    """Answers, streams and errors of all kinds have an id of their own; Anthropic's routes tell it twice."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as router:
            answers = [
                await router.chat(),
                await router.chat(stream=True),
                await router.chat(model="nope"),
                await router.client.post("/v1/chat/completions", content=b"{"),
                await router.client.get("/v1/chat/completions"),
                await router.client.get("/v1/nowhere"),
                await router.client.post("/v1/messages", json=MESSAGE),
                await router.client.post("/v1/messages?beta=true", json={**MESSAGE, "stream": True}),
                await router.client.post("/v1/messages", json={"model": "m"}),
                await router.client.post("/v1/messages", json={**MESSAGE, "model": "nope"}),
            ]
            upstream.script = fail(500)
            answers += [await router.chat(), await router.client.post("/v1/messages", json=MESSAGE)]
            ids = [answer.headers.get_list("x-request-id") for answer in answers]
            assert all(len(told) == 1 for told in ids)
            assert len({told[0] for told in ids}) == len(answers)
            for answer in answers:
                own = [answer.headers["x-request-id"]] if answer.url.path == "/v1/messages" else []
                assert answer.headers.get_list("request-id") == own


@FRONTS
async def test_connection_outlives_a_stream_that_broke(tmp_path: Path, http: str) -> None:
    """The error event ends the stream properly, so the same connection serves the next request."""
    async with scripted_upstream(cut) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), http=http) as router:
            places = []
            for script in (cut, say("fine"), cut, say("fine")):
                upstream.script = script
                answer = await router.chat(stream=True)
                assert ("[DONE]" in answer.text) == (script is not cut)
                assert answer.headers.get("connection") != "close"
                assert "content-length" not in answer.headers
                places.append(answer.extensions["network_stream"].get_extra_info("client_addr"))
            assert len(set(places)) == 1
