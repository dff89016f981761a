"""`ROUTER_WORKERS=2`: real processes on a real port, and what happens to requests when they come and go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.router.test_start import start
from tests.support.process import Service, router_process, routerctl
from tests.support.router import manifest_for
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, chunk, scripted_upstream
from tests.support.waiting import eventually

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


class Workers:
    """A running router of two workers."""

    def __init__(self, service: Service, upstream: ScriptedUpstream) -> None:
        self.service = service
        self.upstream = upstream
        self.go_on = asyncio.Event()
        upstream.script = self._script

    async def _script(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer with a stream that ends once the test says so."""
        await reply.start_stream()
        await reply.event(chunk({"content": "begun"}))
        await self.go_on.wait()
        await reply.event(chunk({"content": " ended"}))
        await reply.event(chunk({}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines so far with that message."""
        lines = [line for line in self.service.output().splitlines() if line.startswith("{") and line.endswith("}")]
        return [found for line in lines if (found := json.loads(line))["message"] == message]

    def pids(self) -> dict[int, int]:
        """Which process is on which seat."""
        return {line["worker"]: line["pid"] for line in self.lines("worker serves")}

    def client(self) -> httpx.AsyncClient:
        """A client of its own, and thereby a connection of its own."""
        return httpx.AsyncClient(base_url=self.service.url, timeout=30, trust_env=False)

    async def worker_of(self, client: httpx.AsyncClient) -> int:
        """Say which worker has accepted a client's connection."""
        answer = await client.get("/v1/models")
        name = answer.headers["x-request-id"]
        found: list[int] = []

        def told() -> bool:
            found.extend(line["worker"] for line in self.lines("request") if line["request_id"] == name)
            return bool(found)

        await eventually(told)
        return found[0]

    async def one_of_each(self, stack: AsyncExitStack) -> dict[int, httpx.AsyncClient]:
        """Return a connected client of each worker."""
        found: dict[int, httpx.AsyncClient] = {}
        for _ in range(400):
            if len(found) == 2:
                return found
            several = [await stack.enter_async_context(self.client()) for _ in range(8)]
            on = await asyncio.gather(*map(self.worker_of, several))
            found.update(zip(on, several, strict=True))
        raise AssertionError("one worker answers everything")


@asynccontextmanager
async def two_workers(folder: Path, **env: str) -> AsyncIterator[Workers]:
    """Run a router of two workers in front of a scripted upstream."""
    async with scripted_upstream() as upstream:
        manifest = folder / "models.yaml"
        manifest.write_text(manifest_for(upstream.url))
        settings = {"ROUTER_WORKERS": "2", "ROUTER_REGISTRY_FILE": str(manifest), **env}
        with router_process(folder, settings) as service:
            workers = Workers(service, upstream)
            await eventually(lambda: len(workers.pids()) == 2)
            yield workers
            workers.go_on.set()


async def begun(client: httpx.AsyncClient, stack: AsyncExitStack) -> httpx.Response:
    """Return a stream that has begun and is open."""
    answer = await stack.enter_async_context(client.stream("POST", PATH, json={**ASKED, "stream": True}))
    assert answer.status_code == 200
    return answer


async def test_killed_worker_takes_only_its_own_requests_with_it(tmp_path: Path) -> None:
    """`kill -9` of one worker: the other's streams end well, new requests succeed at once, it comes back."""
    async with two_workers(tmp_path) as workers, AsyncExitStack() as stack:
        clients = await workers.one_of_each(stack)
        streams = {number: await begun(client, stack) for number, client in clients.items()}
        victim = workers.pids()[1]
        os.kill(victim, signal.SIGKILL)
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):
            await streams[1].aread()
        async with workers.client() as new:
            assert (await new.get("/v1/models")).status_code == 200
        workers.go_on.set()
        assert (await streams[0].aread()).endswith(b"data: [DONE]\n\n")
        await eventually(lambda: workers.pids()[1] != victim)
        again = await workers.one_of_each(stack)
        assert set(again) == {0, 1}


async def test_replaced_worker_knows_what_was_declared_meanwhile(tmp_path: Path) -> None:
    """Keys and manifests of `routerctl` reach all workers; one that comes back does not undo them."""
    async with two_workers(tmp_path) as workers, AsyncExitStack() as stack:
        clients = await workers.one_of_each(stack)
        later = tmp_path / "later.yaml"
        later.write_text(manifest_for(workers.upstream.url, models="later"))
        assert routerctl(tmp_path, "apply", "-f", str(later)).returncode == 0
        key = json.loads(routerctl(tmp_path, "keys", "create", "--name", "all", "--json").stdout)["key"]
        held = {"authorization": f"Bearer {key}"}

        async def models(client: httpx.AsyncClient) -> list[str]:
            answer = await client.get("/v1/models", headers=held)
            return [entry["id"] for entry in answer.json().get("data", [])]

        async def shut(client: httpx.AsyncClient) -> bool:
            return (await client.get("/v1/models")).status_code == 401

        for client in clients.values():
            await eventually(lambda client=client: shut(client))  # type: ignore[misc]
            assert "later" in await models(client)
        victim = workers.pids()[0]
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: workers.pids()[0] != victim)
        os.kill(workers.pids()[1], signal.SIGKILL)  # so that only the new process answers, for a moment
        async with workers.client() as new:
            assert "later" in await models(new)
            assert "m" not in await models(new)


async def test_every_worker_tells_what_all_have_counted(tmp_path: Path) -> None:
    """`/metrics` holds the requests of both workers, whoever is asked; logs say who wrote a line."""
    async with two_workers(tmp_path) as workers, AsyncExitStack() as stack:
        workers.go_on.set()
        clients = await workers.one_of_each(stack)
        for client in clients.values():
            answer = await client.post(PATH, json={**ASKED, "stream": True})
            assert answer.status_code == 200

        async def all_told(client: httpx.AsyncClient) -> bool:
            told = (await client.get("/metrics")).text
            return 'router_attempts_total{backend="b0",result="ok"} 2.0' in told

        for client in clients.values():
            await eventually(lambda client=client: all_told(client))  # type: ignore[misc]
        assert {line["worker"] for line in workers.lines("request")} == {0, 1}


async def test_sigterm_lets_an_open_stream_end(tmp_path: Path) -> None:
    """A router that is told to stop finishes what it has begun, takes nothing new and ends with success."""
    async with two_workers(tmp_path) as workers, AsyncExitStack() as stack:
        client = await stack.enter_async_context(workers.client())
        stream = await begun(client, stack)
        workers.service.process.send_signal(signal.SIGTERM)

        async def closed() -> bool:
            try:
                async with workers.client() as late:
                    await late.get("/healthz")
            except httpx.TransportError:
                return True
            return False

        await eventually(closed)
        assert workers.service.process.poll() is None
        workers.go_on.set()
        assert (await stream.aread()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(workers.service.process.wait, 20) == 0


async def test_second_signal_ends_an_open_stream(tmp_path: Path) -> None:
    """Whoever asks twice does not wait for open answers."""
    async with two_workers(tmp_path, ROUTER_DRAIN_SECONDS="600") as workers, AsyncExitStack() as stack:
        client = await stack.enter_async_context(workers.client())
        stream = await begun(client, stack)
        workers.service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: bool(workers.lines("draining")))
        workers.service.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(workers.service.process.wait, 20)
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):
            assert b"[DONE]" not in await stream.aread()


async def test_killed_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    """After `kill -9` of the parent its workers end by themselves, and their folder goes with them."""
    env = {"TMPDIR": str(tmp_path)}
    async with two_workers(tmp_path, **env) as workers:
        pids = workers.pids()
        assert _folders(tmp_path)
        workers.service.process.kill()

        def gone() -> bool:
            return not any(map(_lives, pids.values()))

        await eventually(gone)
        assert not _folders(tmp_path)


def _folders(folder: Path) -> list[Path]:
    return list(folder.glob("router-metrics-*"))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended and waits for its new parent to notice counts as gone.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(") ")[2][0] != "Z"


async def test_frozen_worker_is_replaced(tmp_path: Path) -> None:
    """A worker that gives no sign of life is replaced, whatever keeps it."""
    async with two_workers(tmp_path, ROUTER_STALL_SECONDS="1") as workers:
        frozen = workers.pids()[0]
        os.kill(frozen, signal.SIGSTOP)
        await eventually(lambda: workers.pids()[0] != frozen)


async def test_one_worker_asks_the_backends(tmp_path: Path) -> None:
    """Discovery is done once, not once for each worker."""
    async with two_workers(tmp_path, LOCAL_AGENT_URL="http://127.0.0.1:1") as workers:

        def told() -> list[int]:
            lines = [json.loads(line) for line in workers.service.output().splitlines() if line.startswith("{")]
            return [line["worker"] for line in lines if line["message"].startswith("source local")]

        await eventually(lambda: bool(told()))
        async with AsyncExitStack() as stack:
            await workers.one_of_each(stack)
        assert set(told()) == {0}


def test_start_of_several_workers_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    """What stops one worker is told once, before any has been started."""
    manifest = tmp_path / "models.yaml"
    manifest.write_text("backends:\n  - {name: x, dialect: morse, base_url: 'http://127.0.0.1:1', tier: local}\n")
    ended = start(tmp_path, ROUTER_REGISTRY_FILE=str(manifest), ROUTER_WORKERS="2")
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "models.yaml:2" in ended.stderr
