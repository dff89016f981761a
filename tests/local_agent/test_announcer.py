"""Tests of the announcer against a router that is a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from local_agent.announcer import Announcer, Identity, agent_id, reachable_url
from local_agent.supervisor import Status
from local_agent.types import LoadedModel, Phase
from tests.support.agent import eventually
from tests.support.process import free_port

IDENTITY = Identity("agent_1", "mac", "http://mac:5000", "0.1.0")
MODEL = LoadedModel("m", 100, 99, ("chat",), "mps", "int4")


def status(*, queued: int = 0, running: int = 0) -> Status:
    """Return the state of an agent that serves."""
    return Status(Phase.IDLE, 0, 0, "", MODEL, True, 1, 0, None, queued, running, 32, 0)


@dataclass
class ScriptedRouter:
    """Records what agents send, and answers heartbeats as told."""

    port: int = field(default_factory=free_port)
    calls: list[tuple[str, str | None, Any]] = field(default_factory=list)
    heartbeat_status: int = 200
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        raw = (await receive())["body"]
        token = dict(scope["headers"]).get(b"authorization")
        async with self.changed:
            self.calls.append((scope["path"], token.decode() if token else None, json.loads(raw)))
            self.changed.notify_all()
        register = scope["path"] == "/agents/register"
        code = 200 if register else self.heartbeat_status
        body = json.dumps({"agent_id": "agent_1", "heartbeat_interval_s": 0.1} if register else {}).encode()
        await send({"type": "http.response.start", "status": code, "headers": []})
        await send({"type": "http.response.body", "body": body})

    def count(self, path: str) -> int:
        """Return how many calls a path has had."""
        return sum(call[0] == path for call in self.calls)

    async def seen(self, path: str, times: int) -> None:
        """Wait until a path has had so many calls."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.count(path) >= times), 30)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve on the port while the context lasts."""
        config = uvicorn.Config(self, port=self.port, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())
        await eventually(lambda: server.started)
        try:
            yield
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def announcing(
    router: ScriptedRouter,
    state: Callable[[], Status] = status,
    models: Callable[[], list[dict[str, Any]]] = lambda: [{"id": "m"}],
    wait_ready: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0),
    token: str | None = None,
) -> AsyncIterator[None]:
    """Announce to a router while the context lasts."""
    announcer = Announcer(f"http://127.0.0.1:{router.port}", token, IDENTITY, state, wait_ready, models)
    task = asyncio.create_task(announcer.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_announcer_registers_then_beats() -> None:
    """Registration says who, where and what; heartbeats say how busy; both carry the token."""
    router = ScriptedRouter()
    async with router.listening(), announcing(router, lambda: status(queued=2, running=1), token="secret-token"):
        await router.seen("/agents/heartbeat", 2)
    path, token, body = router.calls[0]
    assert (path, token) == ("/agents/register", "Bearer secret-token")
    assert body == {
        "id": "agent_1",
        "name": "mac",
        "url": "http://mac:5000",
        "version": "0.1.0",
        "device": "mps",
        "models": [{"id": "m"}],
    }
    assert router.calls[1] == ("/agents/heartbeat", "Bearer secret-token", {"id": "agent_1", "queued": 2, "running": 1})


async def test_announcer_waits_for_the_model() -> None:
    """Nothing is announced before a model is served."""
    router = ScriptedRouter()
    ready = asyncio.Event()

    async def wait_ready() -> None:
        await ready.wait()

    async with router.listening(), announcing(router, wait_ready=wait_ready):
        await asyncio.sleep(0)
        assert router.calls == []
        ready.set()
        await router.seen("/agents/register", 1)


async def test_announcer_registers_again_when_forgotten() -> None:
    """A router that no longer knows the agent is told everything again."""
    router = ScriptedRouter()
    async with router.listening(), announcing(router):
        await router.seen("/agents/heartbeat", 1)
        router.heartbeat_status = 404
        await router.seen("/agents/register", 2)
        router.heartbeat_status = 200
        beats = router.count("/agents/heartbeat")
        await router.seen("/agents/heartbeat", beats + 1)


async def test_announcer_registers_again_when_the_model_changes() -> None:
    """What the router routes by is never out of date for longer than a heartbeat."""
    router = ScriptedRouter()
    models = [{"id": "m"}]
    async with router.listening(), announcing(router, models=lambda: list(models)):
        await router.seen("/agents/heartbeat", 1)
        models[0] = {"id": "other"}
        await router.seen("/agents/register", 2)
    assert [call[2]["models"] for call in router.calls if call[0] == "/agents/register"][-1] == [{"id": "other"}]


async def test_announcer_outlives_the_router_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """A router that goes away is one warning, one that comes back one line, and no other noise."""
    router = ScriptedRouter()
    with caplog.at_level(logging.INFO, "local_agent.announcer"):
        async with announcing(router):
            await eventually(lambda: bool(caplog.records))
            async with router.listening():
                await router.seen("/agents/heartbeat", 1)
    messages = [(record.levelname, record.getMessage().split(";")[0]) for record in caplog.records]
    assert messages[:3] == [
        ("WARNING", "the router does not answer"),
        ("INFO", "the router answers again"),
        ("INFO", "registered with the router"),
    ]


def test_agent_id_is_stable_and_own(tmp_path: Path) -> None:
    """An agent keeps its id over restarts; another port, name or machine has another."""
    first = agent_id(tmp_path / "a", "mac", 5000)
    assert agent_id(tmp_path / "a", "mac", 5000) == first
    others = {agent_id(tmp_path / "a", "mac", 5001), agent_id(tmp_path / "a", "x", 5000)}
    others.add(agent_id(tmp_path / "b", "mac", 5000))
    assert len(others | {first}) == 4
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["machine-id"]


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:5000"), ("::1", "http://[::1]:5000"), ("0.0.0.0", "http://127.0.0.1:5000")],
)
def test_reachable_url_names_an_address(host: str, url: str) -> None:
    """An agent on every address is announced under the one that reaches the router."""
    assert reachable_url(host, 5000, "http://127.0.0.1:8000") == url
