"""Bodies, and the race against a leaving client."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shared.asgi
from shared.asgi import (
    ClientDisconnected,
    Message,
    Receive,
    Scope,
    Send,
    header,
    race,
    read_body,
    send_error,
)
from shared.errors import InvalidRequest, Overloaded, PayloadTooLarge, UnsupportedMediaType
from tests.support.properties import splits
from tests.support.serving import echo, serving


def scope_with(**headers: str) -> Scope:
    """A request's scope."""
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": "/x", "headers": pairs}


def receive_of(chunks: Iterable[bytes], *, cut: bool = False) -> Receive:
    """A channel that delivers a body in chunks; `cut` makes the client leave before its end."""
    pieces = list(chunks)
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b""})

    async def receive() -> Message:
        return messages.pop(0)

    return receive


# --- read_body --------------------------------------------------------------------------------


@given(st.data(), st.binary(max_size=60), st.integers(0, 60))
async def test_read_body_keeps_its_limit_however_the_body_comes(data: st.DataObject, body: bytes, limit: int) -> None:
    """In any chunks, a body within the limit is whole and a larger one is refused after its end."""
    pieces = data.draw(splits(body))
    if len(body) <= limit:
        assert await read_body(scope_with(), receive_of(pieces), limit) == body
        return
    receive = receive_of(pieces)
    with pytest.raises(PayloadTooLarge, match=str(limit)):
        await read_body(scope_with(), receive, limit)
    with pytest.raises(IndexError):
        await receive()


async def test_read_body_stops_draining_at_some_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body without end is refused in the end; one within a generous limit is never cut short."""
    monkeypatch.setattr(shared.asgi, "_DRAIN_LIMIT", 50)

    async def endless() -> Message:
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    with pytest.raises(PayloadTooLarge):
        await read_body(scope_with(), endless, 20)
    assert len(await read_body(scope_with(), receive_of([b"x" * 30] * 10), 1000)) == 300


async def test_read_body_notices_a_client_that_leaves() -> None:
    """Half a body is not a request."""
    with pytest.raises(ClientDisconnected):
        await read_body(scope_with(), receive_of([b"half"], cut=True), 1000)


@pytest.mark.parametrize("encoding", ["compress", "gzip, rot13"])
async def test_read_body_refuses_unknown_compression(encoding: str) -> None:
    """What cannot be read is refused before it is read."""
    with pytest.raises(UnsupportedMediaType):
        await read_body(scope_with(content_encoding=encoding), receive_of([b"x"]), 1000)


async def test_read_body_unpacks_and_keeps_its_limit() -> None:
    """A compressed body is read as what it unpacks to, up to the limit."""
    packed = gzip.compress(b"x" * 1000)
    assert await read_body(scope_with(content_encoding="gzip"), receive_of([packed]), 1000) == b"x" * 1000
    with pytest.raises(PayloadTooLarge):
        await read_body(scope_with(content_encoding="gzip"), receive_of([packed]), 999)
    with pytest.raises(InvalidRequest):
        await read_body(scope_with(content_encoding="gzip"), receive_of([packed[:-1]]), 1000)


async def test_read_body_takes_identity_for_what_it_is() -> None:
    """A body that is said not to be compressed is read."""
    assert await read_body(scope_with(content_encoding="Identity"), receive_of([b"x"]), 10) == b"x"


async def test_read_body_refuses_a_length_that_is_none() -> None:
    """A broken Content-Length is the client's error."""
    with pytest.raises(InvalidRequest):
        await read_body(scope_with(content_length="-1"), receive_of([b"x"]), 1000)


async def test_read_body_lets_the_client_see_a_413_on_a_real_port() -> None:
    """Declared or chunked, a body over the limit gets its answer and not a reset connection."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        except PayloadTooLarge as error:
            await send_error(send, error)

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 500):
            yield b"x" * 500

    async with serving(app) as client:
        assert (await client.post("/", content=b"x" * 1000)).json()["size"] == 1000
        assert (await client.post("/", content=chunks(1000))).json()["size"] == 1000
        for content in (b"x" * 5_000_000, chunks(5_000_000)):
            answer = await client.post("/", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"


# --- race -------------------------------------------------------------------------------------


async def forever() -> Message:
    """A channel on which nothing comes."""
    return await asyncio.Event().wait() or {}


async def test_race_returns_what_the_work_returns() -> None:
    """Work that is done before the client leaves has its result, and nothing is left running."""
    before = asyncio.all_tasks()

    async def work() -> int:
        return 7

    assert await race(work(), forever) == 7
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_race_raises_what_the_work_raises() -> None:
    """An error of the work is the caller's to handle."""

    async def work() -> None:
        raise Overloaded("full")

    with pytest.raises(Overloaded):
        await race(work(), forever)


async def test_race_cancels_the_work_and_waits_for_its_clean_up() -> None:
    """When the client leaves, the work is cancelled and has cleaned up before the race is over."""
    leave = asyncio.Event()
    steps: list[str] = []

    async def receive() -> Message:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            leave.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            steps.append("cancelled")
            await asyncio.sleep(0.01)
            steps.append("cleaned up")
            raise

    with pytest.raises(ClientDisconnected):
        await race(work(), receive)
    assert steps == ["cancelled", "cleaned up"]


async def test_race_survives_work_that_fails_in_its_clean_up() -> None:
    """An error on the way out is nobody's answer, and is not reported as never retrieved."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("clean-up failed")

    with pytest.raises(ClientDisconnected):
        await race(work(), gone)
    gc.collect()
    assert complaints == []


async def test_race_that_is_cancelled_cancels_its_work() -> None:
    """A server that shuts down ends the work too, clean-up included."""
    steps: list[str] = []
    started = asyncio.Event()

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            steps.append("cleaned up")

    task = asyncio.ensure_future(race(work(), forever))
    await started.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert steps == ["cleaned up"]


async def test_race_ignores_what_is_no_disconnect() -> None:
    """A late piece of the body is not a leaving client."""
    messages: list[Message] = [{"type": "http.request", "body": b""}]

    async def receive() -> Message:
        return messages.pop() if messages else await forever()

    async def work() -> str:
        await asyncio.sleep(0.01)
        return "done"

    assert await race(work(), receive) == "done"


async def test_race_sees_a_client_leave_a_real_port() -> None:
    """Closing the socket cancels the work, before and after the answer's head."""
    cancelled: list[str] = []
    started = asyncio.Event()
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> None:
            try:
                if scope["path"] == "/stream":
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": b"first", "more_body": True})
                started.set()
                await asyncio.Event().wait()
            finally:
                cancelled.append(scope["path"])
                done.set()

        await read_body(scope, receive, 100)
        await race(work(), receive)

    async with serving(app) as client:
        for path in ("/whole", "/stream"):
            started.clear()
            done.clear()
            task = asyncio.ensure_future(client.post(path))
            await started.wait()
            task.cancel()
            await asyncio.wait((task,))
            await done.wait()
    assert cancelled == ["/whole", "/stream"]


def test_header_takes_the_first_of_a_name() -> None:
    """The first value counts, in any bytes; an absent one is None."""
    scope = scope_with(x_a="é")
    scope["headers"].append((b"x-a", b"second"))
    assert header(scope, b"x-a") == "é"
    assert header(scope, b"x-b") is None


async def test_send_error_adds_headers_to_the_errors_own() -> None:
    """Status, length, `Retry-After` and more headers go out with the body."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await send_error(send, Overloaded("full", retry_after=3), [(b"x-a", b"1")])
    head = dict(sent[0]["headers"])
    assert (sent[0]["status"], head[b"retry-after"], head[b"x-a"]) == (503, b"3", b"1")
    assert int(head[b"content-length"]) == len(sent[1]["body"])


async def test_race_is_lost_where_the_work_is_cancelled() -> None:
    """Work that is told to give its client up ends as if the client had left."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(ClientDisconnected):
        await race(work(), forever)
