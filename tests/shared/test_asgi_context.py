"""The context around every request: its id, its log line, the last line against crashes."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import httpx
import pytest

from shared.asgi import ClientDisconnected, Message, Receive, RequestContext, Scope, Send, send_json
from shared.logs import AccessLog
from tests.support.serving import LOG, echo, serving


async def test_context_gives_every_request_an_id_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Ids are unique whatever clients send; a client's own joins the log line if it can harm nothing."""
    caplog.set_level(logging.INFO, LOG.name)
    sent = ("abc-123", "abc-123", "x" * 128, "", "x" * 129, "a b", "é", "<script>")
    async with serving(echo) as client:
        answers = [await client.post("/", headers={"x-request-id": wanted.encode()}) for wanted in sent]  # type: ignore[dict-item]
    made = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(made)) == len(sent)
    assert all(name.startswith("req_") for name in made)
    assert [answer.json()["request_id"] for answer in answers] == made
    logged = [record.fields.get("client_request_id") for record in caplog.records if record.name == LOG.name]  # type: ignore[attr-defined]
    assert logged == ["abc-123", "abc-123", "x" * 128, None, None, None, None, None]


async def test_context_hides_the_detail_of_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown exception is a 500 in OpenAI's shape that names the request and nothing else."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ValueError("the secret is 42")

    async with serving(app) as client:
        answer = await client.post("/")
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": f"The server had an internal error. Request id: {answer.headers['x-request-id']}.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    crash = next(record for record in caplog.records if record.name == LOG.name)
    assert "the secret is 42" in str(crash.exc_info)


async def test_context_cuts_the_connection_when_an_answer_crashes_midway() -> None:
    """Once the head is out, only a broken connection tells the client."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise ValueError("midway")

    async with serving(app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/")


async def test_context_logs_one_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the id, method, path, status, time, and what the handler adds."""
    caplog.set_level("INFO", LOG.name)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["log"]["model"] = "m"
        if scope["path"] == "/gone":
            raise ClientDisconnected
        await echo(scope, receive, send)

    async with serving(app) as client:
        await client.post("/here")
        await client.post("/gone")
    lines = [record.fields for record in caplog.records if record.name == LOG.name]  # type: ignore[attr-defined]
    assert [(read["method"], read["path"], read["status"], read["model"]) for read in lines] == [
        ("POST", "/here", 200, "m"),
        ("POST", "/gone", 499, "m"),
    ]
    assert all(read["ms"] >= 0 and read["request_id"].startswith("req_") for read in lines)


async def test_context_leaves_other_connections_alone() -> None:
    """What is no HTTP request passes through as it is."""
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])
        assert "state" not in scope

    async def send(_message: Message) -> None: ...

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    for kind in ("lifespan", "websocket"):
        await RequestContext(app, LOG)({"type": kind}, receive, send)
    assert seen == ["lifespan", "websocket"]


async def test_context_does_not_mix_up_concurrent_requests() -> None:
    """Each of many requests at a time gets its own id back."""
    async with serving(echo) as client:
        answers = await asyncio.gather(*(client.post("/") for _ in range(50)))
    assert all(answer.json()["request_id"] == answer.headers["x-request-id"] for answer in answers)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 50


@pytest.mark.parametrize(
    ("path", "status", "level"),
    [
        ("/readyz", 200, logging.DEBUG),
        ("/readyz", 503, logging.DEBUG),
        ("/readyz", 500, logging.INFO),
        ("/v1/models", 200, logging.INFO),
        ("/v1/models", 503, logging.INFO),
    ],
)
async def test_context_is_quiet_about_probes_that_are_told_not_yet(
    caplog: pytest.LogCaptureFixture, path: str, status: int, level: int
) -> None:
    """A probe that succeeds, or that comes too early, is no news; everything else is."""
    caplog.set_level(logging.DEBUG, LOG.name)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_json(send, status, b"{}")

    async with serving(RequestContext(app, LOG, quiet=("/readyz",))) as client:
        await client.get(path)
    quietest = min(record.levelno for record in caplog.records if record.name == LOG.name)
    assert quietest == level


async def test_context_writes_to_an_access_log(caplog: pytest.LogCaptureFixture) -> None:
    """With an access log the line goes there, whole; a quiet path and a crash go to the logger all the same."""
    caplog.set_level(logging.DEBUG, LOG.name)
    out = io.BytesIO()
    access = AccessLog(out.write, "tests.access")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["log"]["model"] = "m"
        if scope["path"] == "/crash":
            raise ValueError("x")
        await echo(scope, receive, send)

    async with serving(RequestContext(app, LOG, ("/quiet",), access)) as client:
        for path in ("/here", "/quiet", "/crash"):
            await client.post(path, headers={"x-request-id": "theirs"})
    assert access.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    told = [(line["path"], line["status"], line["model"], line["client_request_id"]) for line in lines]
    assert told == [("/here", 200, "m", "theirs"), ("/crash", 500, "m", "theirs")]
    # The context around this one tells the logger of every request, too.
    inner = [(record.levelno, record.fields.get("path")) for record in caplog.records if record.name == LOG.name]  # type: ignore[attr-defined]
    assert {(logging.DEBUG, "/quiet"), (logging.ERROR, None)} <= set(inner)
