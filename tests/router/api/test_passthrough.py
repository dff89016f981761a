"""Sound, images, moderation, reranking on a live router: passed on by model, whatever comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, SeenRequest, fail, scripted_upstream
from tests.support.waiting import eventually

SOUND = bytes(range(256)) * 400
PLACES = [
    ("/v1/audio/speech", {"input": "Hi", "voice": "alloy"}),
    ("/v1/audio/transcriptions", {"file": "data:"}),
    ("/v1/audio/translations", {"file": "data:"}),
    ("/v1/images/generations", {"prompt": "a cat"}),
    ("/v1/images/edits", {"prompt": "a cat"}),
    ("/v1/images/variations", {"image": "data:"}),
    ("/v1/moderations", {"input": "Hi"}),
    ("/v1/rerank", {"query": "a", "documents": ["b", "c"]}),
]


def with_body(data: bytes, content_type: str = "application/json") -> Script:
    """Return a script that answers with these bytes."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(data, headers={"content-type": content_type} if content_type else {})

    return script


def sdk(router: LiveRouter) -> openai.AsyncOpenAI:
    """Return OpenAI's client of the router."""
    return openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize(("path", "fields"), PLACES)
async def test_places_pass_json_by_model(tmp_path: Path, path: str, fields: dict[str, Any]) -> None:
    """The body reaches the same path of the backend with its model's name, the answer's bytes come back."""
    answer = b'{"results": [ ],"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}, "model":"x"}'
    async with scripted_upstream(with_body(answer)) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            given = {"model": "m", **fields, "unknown": {"kept": [1.0]}, "router": {"fallback": "off"}}
            told = await router.client.post(path, json=given)
            assert told.status_code == 200
            assert (told.content, told.headers["content-type"]) == (answer, "application/json")
            assert upstream.requests[-1].path == path
            assert upstream.requests[-1].json == {"model": "up-0", **fields, "unknown": {"kept": [1.0]}}
            assert upstream.requests[-1].headers["content-type"] == "application/json"
            refused = await router.client.post(path, json=given | {"model": "nope"})
            assert refused.status_code == 404
            assert_openai_error(refused, "model_not_found", "model")
            upstream.script = fail(400, {"error": {"message": "bad voice", "code": "x", "param": "voice"}})
            refused = await router.client.post(path, json=given)
            assert refused.status_code == 400
            assert_openai_error(refused, "x", "voice")


async def test_places_pass_forms_by_model(tmp_path: Path) -> None:
    """Nothing but the model's name changes in a form, wherever it stands, however long the file is."""
    async with scripted_upstream(with_body(b"1\n00:00 --> 00:01\nHi\n", "text/plain; charset=utf-8")) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            for size in (10, 600_000):
                file = ("a.wav", b"\r\n--" + SOUND[:7] * (size // 7), "audio/wav")
                data = {"response_format": "srt", "model": "m", "language": "en"}
                form = router.client.build_request("POST", "/v1/audio/transcriptions", data=data, files={"file": file})
                given = await form.aread()
                told = await router.client.send(form)
                assert told.text == "1\n00:00 --> 00:01\nHi\n"
                assert told.headers["content-type"] == "text/plain; charset=utf-8"
                seen = upstream.requests[-1]
                assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
                assert seen.body == given.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nup-0\r\n")


async def test_transcriptions_serve_the_sdk(tmp_path: Path) -> None:
    """The SDK sends a file, and reads the text; streamed, its events."""
    async with scripted_upstream(with_body(b'{"text":"Hi there"}')) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            client = sdk(router)
            told = await client.audio.transcriptions.create(model="m", file=("a.wav", SOUND))
            assert told.text == "Hi there"

            async def events(_request: SeenRequest, reply: ScriptedReply) -> None:
                await reply.start_stream()
                await reply.event({"type": "transcript.text.delta", "delta": "Hi"})
                usage = {"type": "tokens", "input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
                await reply.event({"type": "transcript.text.done", "text": "Hi", "usage": usage})
                await reply.end_stream()

            upstream.script = events
            stream = await client.audio.transcriptions.create(model="m", file=("a.wav", SOUND), stream=True)
            assert [event.type async for event in stream] == ["transcript.text.delta", "transcript.text.done"]
            # whisper-1 is said to ignore `stream`.
            upstream.script = with_body(b'{"text":"Hi there"}')
            data = {"model": "m", "stream": "true"}
            whole = await router.client.post("/v1/audio/transcriptions", data=data, files={"file": SOUND})
            assert (whole.json(), whole.headers["content-type"]) == ({"text": "Hi there"}, "application/json")
            await client.close()


async def test_speech_comes_as_it_is_made(tmp_path: Path) -> None:
    """The first sound is there before the last is made, byte for byte, in the backend's content type."""
    go_on = asyncio.Event()

    async def speak(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream({"content-type": "audio/mpeg"})
        await reply.send(SOUND[:1000])
        await go_on.wait()
        await reply.send(SOUND[1000:])
        await reply.end_stream()

    async with scripted_upstream(speak) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        body = {"model": "m", "input": "Hi", "voice": "alloy"}
        async with router.client.stream("POST", "/v1/audio/speech", json=body) as told:
            assert told.headers["content-type"] == "audio/mpeg"
            assert told.headers["x-router-model"] == "m"
            pieces = told.aiter_raw()
            first = await anext(pieces)
            assert first == SOUND[:1000]
            go_on.set()
            assert first + b"".join([piece async for piece in pieces]) == SOUND
        client = sdk(router)
        spoken = await client.audio.speech.create(model="m", input="Hi", voice="alloy")
        assert spoken.content == SOUND
        assert upstream.requests[-1].headers["accept"] == "application/octet-stream"
        await client.close()


async def test_speech_that_breaks_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Sound has no place for an error: the connection ends without its end."""

    async def speak(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream({"content-type": "audio/mpeg"})
        await reply.send(SOUND)
        reply.cut()

    async with scripted_upstream(speak) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        got = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async with router.client.stream("POST", "/v1/audio/speech", json={"model": "m", "input": "Hi"}) as told:
                async for piece in told.aiter_raw():
                    got += piece
        assert got == SOUND
        upstream.script = with_body(b"", "audio/mpeg")
        silent = await router.client.post("/v1/audio/speech", json={"model": "m", "input": "Hi"})
        assert silent.status_code == 502
        assert_openai_error(silent, "upstream_unavailable")


async def test_speech_that_nobody_listens_to_is_cancelled(tmp_path: Path) -> None:
    """When the client leaves, the backend sees it."""

    async def speak(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream({"content-type": "audio/mpeg"})
        await reply.send(SOUND)
        await asyncio.Event().wait()

    async with scripted_upstream(speak) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        async with router.client.stream("POST", "/v1/audio/speech", json={"model": "m", "input": "Hi"}) as told:
            await anext(told.aiter_raw())
        await eventually(upstream.requests[0].closed_early.is_set)


async def test_images_stream_their_events(tmp_path: Path) -> None:
    """Named events keep their names; one that is missing at the end is told as an error."""

    async def draw(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.send(
            b'event: image_generation.partial_image\r\ndata: {"type":"image_generation.partial_image"}\r\n\r\n'
        )
        if request.json["prompt"] == "a cat":
            usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
            data = json.dumps({"type": "image_generation.completed", "usage": usage})
            await reply.send(f"event: image_generation.completed\ndata: {data}\n\n".encode())
        await reply.end_stream()

    async with scripted_upstream(draw) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        whole = await router.client.post(
            "/v1/images/generations", json={"model": "m", "prompt": "a cat", "stream": True}
        )
        assert whole.headers["content-type"].startswith("text/event-stream")
        events = whole.text.split("\n\n")
        assert [event.split("\n")[0] for event in events[:2]] == [
            "event: image_generation.partial_image",
            "event: image_generation.completed",
        ]
        cut = await router.client.post("/v1/images/generations", json={"model": "m", "prompt": "a dog", "stream": True})
        assert "stream_interrupted" in cut.text.split("\n\n")[1]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"<html>Bad gateway</html>", "text/html", 502),
        (b'{"data":[{"b64', "application/json", 502),
        (b"", "application/json", 502),
        (b'{"error":{"message":"too rude","code":400,"type":"x"}}', "application/json", 400),
        (b'[{"index":0}]', "application/json; charset=utf-8", 200),
        (b"plain", "text/plain", 200),
        (b"\x00\xff", "", 200),
    ],
)
async def test_answers_are_believed_as_far_as_they_can_be(
    tmp_path: Path, body: bytes, content_type: str, status: int
) -> None:
    """A web page and broken JSON are no answers; anything else is passed on as what it says it is."""
    async with scripted_upstream(with_body(body, content_type)) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            told = await router.client.post("/v1/rerank", json={"model": "m", "query": "a", "documents": []})
            assert told.status_code == status
            if status == 200:
                assert told.content == body
                assert told.headers["content-type"] == (content_type or "application/octet-stream")
            else:
                assert set(told.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_model_that_is_not_named_is_the_first_that_can(tmp_path: Path) -> None:
    """Moderations and images need no model in OpenAI's API; a form is given one too."""
    async with scripted_upstream(with_body(b"{}")) as upstream:
        kinds = "capabilities: [moderations, images]\n    aliases:"
        async with live_router(tmp_path, manifest_for(upstream.url).replace("aliases:", kinds)) as router:
            assert (await router.client.post("/v1/moderations", json={"input": "Hi"})).status_code == 200
            assert upstream.requests[-1].json == {"input": "Hi", "model": "up-0"}
            form = router.client.build_request("POST", "/v1/images/variations", files={"image": ("a.png", SOUND)})
            given = await form.aread()
            assert (await router.client.send(form)).status_code == 200
            assert b'name="model"\r\n\r\nup-0\r\n' in upstream.requests[-1].body
            assert upstream.requests[-1].body.endswith(given)
        async with live_router(tmp_path / "other", manifest_for(upstream.url)) as router:
            refused = await router.client.post("/v1/moderations", json={"input": "Hi"})
            assert refused.status_code == 400
            assert_openai_error(refused, "invalid_request", "model")


@pytest.mark.parametrize(
    ("path", "body", "content_type", "param"),
    [
        ("/v1/audio/speech", b'{"model":"m"}', "application/json", "input"),
        ("/v1/audio/speech", b'{"input":"Hi"}', "application/json", "model"),
        ("/v1/audio/speech", b'{"model":5,"input":"Hi"}', "application/json", "model"),
        ("/v1/moderations", b"{}", "application/json", "input"),
        ("/v1/rerank", b'{"model":"","query":"x"}', "application/json", "model"),
        ("/v1/rerank", b"[", "application/json", None),
        ("/v1/audio/transcriptions", b"--b--", "multipart/form-data; boundary=b", "model"),
        ("/v1/audio/transcriptions", b"--b\r\n", "multipart/form-data", None),
        ("/v1/audio/transcriptions", b"nothing", "multipart/form-data; boundary=b", None),
    ],
)
async def test_places_refuse_what_they_cannot_read(
    tmp_path: Path, path: str, body: bytes, content_type: str, param: str | None
) -> None:
    """A clear 400 that names the field, where there is one."""
    async with live_router(tmp_path) as router:
        refused = await router.client.post(path, content=body, headers={"content-type": content_type})
        assert refused.status_code == 400
        assert_openai_error(refused, "invalid_request", param)
