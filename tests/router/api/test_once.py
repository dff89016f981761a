"""`Idempotency-Key` and `Last-Event-ID` on a live router: one call upstream, however often a client asks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.router.test_gateway import usage_rows
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import (
    Script,
    ScriptedReply,
    ScriptedUpstream,
    SeenRequest,
    chunk,
    fail,
    say,
    scripted_upstream,
)
from tests.support.waiting import eventually

FRONTS = pytest.mark.parametrize("http", ["direct", "asgi"])
FORMS = pytest.mark.parametrize("stream", [False, True])
KEY = {"idempotency-key": "k-1"}
WORDS = "one two three four five"


class Gate:
    """A backend that says its first words, and the rest when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request."""
        if not request.json.get("stream"):
            self.begun.set()
            await self.open.wait()
            await say(WORDS)(request, reply)
            return
        await reply.start_stream()
        for word in ("one", " two"):
            await reply.event(chunk({"content": word}))
        self.begun.set()
        await self.open.wait()
        for word in (" three", " four", " five"):
            await reply.event(chunk({"content": word}))
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()


@asynccontextmanager
async def served(
    tmp_path: Path, script: Script, **settings: object
) -> AsyncIterator[tuple[LiveRouter, ScriptedUpstream]]:
    """A router in front of one scripted upstream."""
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), **settings) as router:
            yield router, upstream


def text_of(stream: str) -> str:
    """Return the text that a stream says."""
    events = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", stream, re.MULTILINE)]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])


def ids_of(stream: str) -> list[str]:
    """Return the ids of a stream's events."""
    return re.findall(r"^id: (.*)$", stream, re.MULTILINE)


def without_ids(stream: str) -> str:
    """Return a stream as it is without a key."""
    return re.sub(r"^id: .*\n", "", stream, flags=re.MULTILINE)


@FRONTS
@FORMS
async def test_repeated_request_in_flight_makes_one_call(tmp_path: Path, http: str, stream: bool) -> None:
    """Five requests with one key get one answer, byte for byte, paid once; only the first is no replay."""
    gate = Gate()
    async with served(tmp_path, gate, http=http) as (router, upstream):
        asked = [asyncio.ensure_future(router.chat(headers=KEY, stream=stream)) for _ in range(5)]
        await gate.begun.wait()
        gate.open.set()
        answers = await asyncio.gather(*asked)
        assert len(upstream.requests) == 1
        assert len({answer.content for answer in answers}) == 1
        assert {answer.status_code for answer in answers} == {200}
        assert sorted(a.headers.get("x-router-idempotent-replay", "") for a in answers) == ["", *["true"] * 4]
        assert len({answer.headers["x-request-id"] for answer in answers}) == 5
        assert len({answer.headers["x-router-decision-id"] for answer in answers}) == 1
        plain = await router.chat(stream=stream)
        assert without_ids(answers[0].text) == plain.text if stream else answers[0].content == plain.content
        assert len(await usage_rows(tmp_path, 2)) == 2


@FRONTS
@FORMS
async def test_finished_answer_is_given_again(tmp_path: Path, http: str, stream: bool) -> None:
    """A request whose answer is there gets it with its own facts, and costs nothing."""
    async with served(tmp_path, say(WORDS), http=http) as (router, upstream):
        first = await router.chat(headers=KEY, stream=stream)
        again = await router.chat(headers=KEY, stream=stream)
        assert again.content == first.content
        assert again.headers["x-router-idempotent-replay"] == "true"
        assert "x-router-idempotent-replay" not in first.headers
        for name in ("x-router-decision-id", "x-router-model", "x-router-backend", "content-type"):
            assert again.headers[name] == first.headers[name]
        other = await router.chat(headers={"idempotency-key": "k-2"}, stream=stream)
        assert other.status_code == 200
        assert len(upstream.requests) == 2
        assert len(await usage_rows(tmp_path, 2)) == 2


async def test_key_reused_for_another_request_is_a_conflict(tmp_path: Path) -> None:
    """Another body under the same key is told so, in flight and afterwards, and another caller's key is another key."""
    gate = Gate()
    async with served(tmp_path, gate) as (router, upstream):
        asked = asyncio.ensure_future(router.chat(headers=KEY))
        await gate.begun.wait()
        for _ in range(2):
            answer = await router.chat("something else", headers=KEY)
            assert answer.status_code == 409
            assert_openai_error(answer, "idempotency_key_reused", "Idempotency-Key")
            assert answer.json()["error"]["type"] == "idempotency_error"
            assert answer.headers["x-should-retry"] == "false"
            gate.open.set()
            assert (await asked).status_code == 200
        long = await router.chat(headers={"idempotency-key": "x" * 256})
        assert_openai_error(long, "invalid_request", "Idempotency-Key")
        keys = [(await asyncio.to_thread(router.store.create_key, name)).key for name in ("alice", "bob")]
        await router.refresh()
        for key in keys:
            own = await router.chat(headers={**KEY, "authorization": f"Bearer {key}"})
            assert "x-router-idempotent-replay" not in own.headers
        assert len(upstream.requests) == 3


@FORMS
async def test_failed_request_may_be_tried_again(tmp_path: Path, stream: bool) -> None:
    """All who wait get the error; it is not kept, so the next try may succeed."""
    free = asyncio.Event()

    async def refuses(request: SeenRequest, reply: ScriptedReply) -> None:
        await free.wait()
        await fail(400, {"error": {"message": "no", "type": "invalid_request_error", "code": "bad"}})(request, reply)

    async with served(tmp_path, refuses) as (router, upstream):
        asked = [asyncio.ensure_future(router.chat(headers=KEY, stream=stream)) for _ in range(3)]
        await eventually(lambda: len(upstream.requests) == 1)
        free.set()
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 400
            assert_openai_error(answer, "bad")
        assert len(upstream.requests) == 1
        upstream.script = say(WORDS)
        assert (await router.chat(headers=KEY, stream=stream)).status_code == 200


async def test_cut_stream_is_not_kept(tmp_path: Path) -> None:
    """A stream that broke off ends with its error for all who read it, and the next try is a new one."""

    async def cut(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "half"}))
        reply.cut()

    async with served(tmp_path, cut) as (router, upstream):
        broken = await router.chat(headers=KEY, stream=True)
        assert "stream_interrupted" in broken.text
        assert "[DONE]" not in broken.text
        upstream.script = say(WORDS)
        again = await router.chat(headers=KEY, stream=True)
        assert text_of(again.text) == WORDS
        lost = await router.chat(headers={**KEY, "last-event-id": ids_of(broken.text)[0]}, stream=True)
        assert lost.status_code == 409
        assert_openai_error(lost, "not_replayable", "Last-Event-ID")


async def read_events(answer: httpx.Response, enough: Callable[[str], bool]) -> str:
    """Read a stream until there is enough of it."""
    text = ""
    async for piece in answer.aiter_text():
        text += piece
        if enough(text):
            break
    return text


@FRONTS
@pytest.mark.parametrize("finished", [False, True])
async def test_stream_is_resumed_where_the_client_left_it(tmp_path: Path, http: str, finished: bool) -> None:
    """A client that lost its connection gets exactly the rest, from the running stream or the finished one."""
    gate = Gate()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with served(tmp_path, gate, http=http) as (router, upstream):
        async with router.client.stream("POST", "/v1/chat/completions", json=body, headers=KEY) as answer:
            begun = await read_events(answer, lambda text: text.count("\n\n") >= 2)
        if finished:
            gate.open.set()
            await usage_rows(tmp_path, 1)
        for place in (0, 1):
            last = ids_of(begun)[place]
            resuming = asyncio.ensure_future(router.chat(headers={**KEY, "last-event-id": last}, stream=True))
            gate.open.set()
            rest = await resuming
            assert rest.status_code == 200
            assert text_of(rest.text) == WORDS[len("one two"[: 3 + 4 * place]) :]
            assert without_ids(rest.text).endswith("data: [DONE]\n\n")
            assert rest.headers["x-router-idempotent-replay"] == "true"
        whole = await router.chat(headers=KEY, stream=True)
        assert whole.text.startswith(begun)
        assert len(ids_of(whole.text)) == whole.text.count("\n\n")
        assert len(upstream.requests) == 1
        (row,) = await usage_rows(tmp_path, 1)
        assert row["error"] is None


async def test_every_place_of_a_stream_can_be_resumed_from(tmp_path: Path) -> None:
    """Whatever the last event that arrived, what was read and the rest are the whole."""
    async with served(tmp_path, say(WORDS)) as (router, upstream):
        whole = (await router.chat(headers=KEY, stream=True)).text
        events = [event + "\n\n" for event in whole.split("\n\n")[:-1]]
        for count, last in enumerate(ids_of(whole), start=1):
            rest = await router.chat(headers={**KEY, "last-event-id": last}, stream=True)
            assert rest.text == "".join(events[count:])
        bad = await router.chat(headers={**KEY, "last-event-id": "7"}, stream=True)
        assert_openai_error(bad, "invalid_request", "Last-Event-ID")
        assert len(upstream.requests) == 1


async def test_place_in_a_stream_that_is_gone_starts_nothing(tmp_path: Path) -> None:
    """Nobody is asked for a new answer to continue an old one with."""
    async with served(tmp_path, say(WORDS)) as (router, upstream):
        lost = await router.chat(headers={**KEY, "last-event-id": f"{'0' * 16}:3"}, stream=True)
        assert lost.status_code == 409
        assert_openai_error(lost, "not_replayable", "Last-Event-ID")
        assert upstream.requests == []
        assert (await router.chat(headers=KEY, stream=True)).status_code == 200


@FRONTS
@FORMS
async def test_work_ends_with_the_last_who_wants_it(tmp_path: Path, http: str, stream: bool) -> None:
    """The first to ask may leave while another waits; with the last the exchange is closed, and billed once."""
    gate = Gate()
    async with served(tmp_path, gate, http=http, resume_seconds=0) as (router, upstream):
        first = asyncio.ensure_future(router.chat(headers=KEY, stream=stream))
        await gate.begun.wait()
        second = asyncio.ensure_future(router.chat(headers=KEY, stream=stream))
        desk = router.services.desk
        assert desk is not None
        await eventually(lambda: [len(work.recording.readers) for work in desk._live.values()] == [2])
        first.cancel()
        await eventually(lambda: [len(work.recording.readers) for work in desk._live.values()] == [1])
        assert not upstream.requests[0].closed_early.is_set()
        second.cancel()
        await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 10)
        rows = await usage_rows(tmp_path, 1)
        assert [row["error"] for row in rows] == ["client_disconnected"]
        upstream.script = say(WORDS)
        assert (await router.chat(headers=KEY, stream=stream)).status_code == 200


async def test_stream_goes_on_for_a_while_without_its_client(tmp_path: Path) -> None:
    """The time that a client has to come back passes, and then the exchange is closed."""
    gate = Gate()
    async with served(tmp_path, gate, resume_seconds=0.2) as (router, upstream):
        asked = asyncio.ensure_future(router.chat(headers=KEY, stream=True))
        await gate.begun.wait()
        asked.cancel()
        await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 10)
        assert len(await usage_rows(tmp_path, 1)) == 1


async def test_large_answer_is_delivered_once(tmp_path: Path) -> None:
    """What outgrows the bound reaches its client whole; whoever comes later is told why not."""
    going = asyncio.Event()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for number in range(40):
            await reply.event(chunk({"content": f"{number:>1000}"}))
            if number == 30:
                await going.wait()
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    async with served(tmp_path, script, replay_max_bytes=4096) as (router, upstream):
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with router.client.stream("POST", "/v1/chat/completions", json=body, headers=KEY) as answer:
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if not going.is_set() and text.count("\n\n") > 20:
                    late = await router.chat(headers=KEY, stream=True)
                    assert late.status_code == 409
                    assert_openai_error(late, "not_replayable")
                    going.set()
        assert text_of(text).split() == [str(number) for number in range(40)]
        assert text.count("[DONE]") == 1
        assert len(upstream.requests) == 1


async def test_keyed_stream_with_pings_is_read_by_the_openai_sdk(tmp_path: Path) -> None:
    """Ids and signs of life in one stream are no riddle to a client that remembers the last id."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"content": "one"}))
        await reply.send(b": the backend's own comment\n\n")
        await asyncio.sleep(0.2)
        await reply.event(chunk({"content": " two"}))
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    async with served(tmp_path, script, ping_seconds=0.05) as (router, _):
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True, extra_headers=KEY
        )
        said = [event.choices[0].delta.content async for event in stream]
        assert "".join(filter(None, said)) == "one two"
        await client.close()


async def test_key_is_ignored_where_that_is_turned_off(tmp_path: Path) -> None:
    """With a time to live of 0 each request stands for itself, and its stream has no ids."""
    async with served(tmp_path, say(WORDS), idempotency_ttl=0) as (router, upstream):
        for _ in range(2):
            assert ids_of((await router.chat(headers=KEY, stream=True)).text) == []
        assert len(upstream.requests) == 2


@FRONTS
async def test_nothing_is_left_behind(tmp_path: Path, http: str) -> None:
    """After answers, failures and clients that left, no work, no watch and no memory remains."""
    gate = Gate()
    async with served(tmp_path, gate, http=http, resume_seconds=0.05) as (router, _):
        asked = [
            asyncio.ensure_future(
                router.chat(
                    headers={"idempotency-key": f"k-{number % 7}"} if number % 3 else None, stream=number % 2 > 0
                )
            )
            for number in range(28)
        ]
        await gate.begun.wait()
        for task in asked[::2]:
            task.cancel()
        gate.open.set()
        await asyncio.wait(asked)
        desk, pulse = router.services.desk, router.services.pulse
        assert desk is not None
        await eventually(lambda: not (desk._live or desk._tasks or pulse._open))
        assert desk._room.left == 32 * 8 * 1024 * 1024
        assert router.services.outbox.open == 0
