"""A rollout: routers with one PostgreSQL and one Valkey are replaced in turn, under traffic, behind a load balancer."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.router.registry.outcomes import rows
from tests.support.balancer import Balancer, load_balancer
from tests.support.postgres import PASSWORD, PostgresProcess, own_postgres, postgres
from tests.support.process import Service, router_process, routerctl
from tests.support.router import manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, scripted_upstream
from tests.support.valkey import ValkeyProcess, valkey
from tests.support.waiting import eventually

__all__ = ["own_postgres", "postgres", "valkey"]

WORDS = [f"word{number} " for number in range(12)]
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


async def in_pieces(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer with all the words, a stream one by one over a while."""
    usage = {"prompt_tokens": 3, "completion_tokens": len(WORDS), "total_tokens": 3 + len(WORDS)}
    if not request.json.get("stream"):
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await reply.json(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice], "usage": usage}
        )
        return
    await reply.start_stream()
    for word in WORDS:
        await reply.event(chunk({"content": word}))
        await asyncio.sleep(0.03)
    await reply.event(chunk({}, "stop"))
    await reply.event({**chunk({}), "choices": [], "usage": usage})
    await reply.event("[DONE]")
    await reply.end_stream()


class Traffic:
    """Clients that ask again and again, each as soon as it has its answer; nothing is tried twice."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self.ids: list[str] = []
        """The ids of all requests that were answered whole."""
        self.counts = [0, 0, 0]
        self._over = False

    async def run(self) -> None:
        """Ask until told to stop; raises what any client gets that is no whole answer."""
        async with AsyncOpenAI(base_url=self._url + "/v1", api_key=self._key, max_retries=0, timeout=60) as kept:
            await asyncio.gather(self._ask(kept), self._stream(kept), self._ask_anew())

    def stop(self) -> None:
        """Let every client finish what it has begun."""
        self._over = True

    async def busy(self) -> None:
        """Wait until every client has had two more answers."""
        goal = [count + 2 for count in self.counts]
        await eventually(lambda: all(count >= least for count, least in zip(self.counts, goal, strict=True)), 60)

    def _whole(self, client: int, text: str | None, headers: httpx.Headers) -> None:
        assert text == "".join(WORDS)
        self.ids.append(headers["x-request-id"])
        self.counts[client] += 1

    async def _ask(self, client: AsyncOpenAI) -> None:
        while not self._over:
            answer = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
            self._whole(0, answer.parse().choices[0].message.content, answer.headers)

    async def _stream(self, client: AsyncOpenAI) -> None:
        while not self._over:
            answer = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)
            text = "".join([piece.choices[0].delta.content or "" async for piece in answer.parse() if piece.choices])
            self._whole(1, text, answer.headers)

    async def _ask_anew(self) -> None:
        """Ask over a new connection each time."""
        headers = {"authorization": f"Bearer {self._key}"}
        while not self._over:
            async with httpx.AsyncClient(timeout=60, trust_env=False, headers=headers) as client:
                body = {"model": "m", "messages": MESSAGES}
                answer = await client.post(self._url + "/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                self._whole(2, answer.json()["choices"][0]["message"]["content"], answer.headers)


class Fleet:
    """The routers of one registry, and the load balancer in front of them."""

    def __init__(self, folder: Path, env: dict[str, str], balancer: Balancer) -> None:
        self._folder = folder
        self._env = env
        self._balancer = balancer
        self._running: list[tuple[Service, ExitStack]] = []
        self._started = 0

    async def add(self, name: str | None = None) -> Service:
        """Start a router and wait until it gets traffic; one of an earlier name finds what that one left behind."""
        self._started += 1
        folder = self._folder / (name or str(self._started))
        folder.mkdir(exist_ok=True)
        stack = ExitStack()
        service = await asyncio.to_thread(stack.enter_context, router_process(folder, self._env))
        self._running.append((service, stack))
        self._balancer.add(service.url)
        await eventually(lambda: service.url in self._balancer.ready)
        return service

    async def crash(self) -> None:
        """End the oldest router as a crash does, once the load balancer has taken it out."""
        service, stack = self._running.pop(0)
        await self._balancer.remove(service.url)
        self._balancer.ready.remove(service.url)
        service.process.kill()
        await asyncio.to_thread(service.process.wait)
        stack.close()

    async def retire(self) -> None:
        """Tell the oldest router to stop, and wait until it has ended."""
        service, stack = self._running.pop(0)
        service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: service.url not in self._balancer.ready)
        assert await asyncio.to_thread(service.process.wait, 60) == 0, service.output()
        await self._balancer.remove(service.url)
        stack.close()

    async def close(self) -> None:
        """Stop what still runs."""
        for _, stack in self._running:
            await asyncio.to_thread(stack.close)


@asynccontextmanager
async def fleet(folder: Path, **env: str) -> AsyncIterator[tuple[Fleet, Balancer]]:
    """Routers behind a load balancer; none yet."""
    async with load_balancer() as balancer:
        routers = Fleet(folder, env, balancer)
        try:
            yield routers, balancer
        finally:
            await routers.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
async def test_rollout_costs_no_request_and_no_row(
    postgres: PostgresProcess, valkey: ValkeyProcess, tmp_path: Path, workers: int
) -> None:
    """Each router is replaced by another: every request is answered, every stream whole, every row there once."""
    url = postgres.database()
    shared = {"DATABASE_URL": url, "REDIS_URL": valkey.url, "ROUTER_AUTH": "required"}
    async with (
        scripted_upstream(in_pieces) as upstream,
        fleet(tmp_path, **shared, ROUTER_WORKERS=str(workers), ROUTER_SETTLE_SECONDS="1") as (routers, balancer),
    ):
        manifest = tmp_path / "models.yaml"
        manifest.write_text(manifest_for(upstream.url))
        applied = await asyncio.to_thread(routerctl, tmp_path, "apply", "-f", str(manifest), env=shared)
        assert applied.returncode == 0, applied.stderr
        made = await asyncio.to_thread(routerctl, tmp_path, "keys", "create", "--json", env=shared)
        await routers.add()
        await routers.add()
        traffic = Traffic(balancer.url, json.loads(made.stdout)["key"])
        running = asyncio.ensure_future(traffic.run())
        try:
            for _ in range(2):
                await _unless(running, traffic.busy)
                await _unless(running, routers.add)
                await _unless(running, routers.retire)
            await _unless(running, traffic.busy)
            traffic.stop()
            await running
        finally:
            running.cancel()
    found = await asyncio.to_thread(rows, url)
    assert sorted(row["request_id"] for row in found) == sorted(traffic.ids)
    assert {(row["status"], row["error"], row["completion_tokens"]) for row in found} == {(200, None, len(WORDS))}
    postgres.drop(url)


@pytest.mark.timeout(300)
async def test_database_that_restarts_costs_no_request_and_no_row(
    own_postgres: PostgresProcess, valkey: ValkeyProcess, tmp_path: Path
) -> None:
    """While PostgreSQL is away everything is answered, a router that crashes meanwhile too loses nothing."""
    url = own_postgres.database()
    shared = {"DATABASE_URL": url, "REDIS_URL": valkey.url, "ROUTER_AUTH": "required"}
    async with scripted_upstream(in_pieces) as upstream, fleet(tmp_path, **shared) as (routers, balancer):
        manifest = tmp_path / "models.yaml"
        manifest.write_text(manifest_for(upstream.url))
        await asyncio.to_thread(routerctl, tmp_path, "apply", "-f", str(manifest), env=shared)
        key = json.loads((await asyncio.to_thread(routerctl, tmp_path, "keys", "create", "--json", env=shared)).stdout)
        first = await routers.add("first")
        second = await routers.add("second")
        traffic = Traffic(balancer.url, key["key"])
        running = asyncio.ensure_future(traffic.run())
        try:
            await _unless(running, traffic.busy)
            own_postgres.kill()
            await _unless(running, traffic.busy)
            async with httpx.AsyncClient(timeout=30, trust_env=False) as client:

                async def status(router: Service, key: str) -> int:
                    headers = {"authorization": f"Bearer {key}"}
                    return (await client.get(router.url + "/v1/models", headers=headers)).status_code

                assert await status(second, "sk-router-made-elsewhere") == 503
                traffic.stop()
                await running
                await routers.crash()
                await asyncio.to_thread(own_postgres.start)
                first = await routers.add("first")
                made = await asyncio.to_thread(routerctl, tmp_path, "keys", "create", "--json", env=shared)
                new = json.loads(made.stdout)["key"]
                for router in (first, second):
                    await eventually(lambda router=router: _is(status(router, new), 200))  # type: ignore[misc]
                assert await status(second, "sk-router-made-elsewhere") == 401
            await eventually(lambda: len(rows(url)) >= len(traffic.ids))
            with own_postgres.connect() as connection:
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'inference-router'"
                (connections,) = connection.execute(query).fetchone() or (0,)
            assert 2 <= connections <= 10
            assert PASSWORD not in first.output() + second.output()
        finally:
            running.cancel()
    assert sorted(row["request_id"] for row in await asyncio.to_thread(rows, url)) == sorted(traffic.ids)


async def _is(status: Awaitable[int], wanted: int) -> bool:
    return await status == wanted


async def _unless(failing: asyncio.Future[None], step: Callable[[], Any]) -> None:
    """Take a step, unless the traffic fails meanwhile."""
    taken = asyncio.ensure_future(step())
    await asyncio.wait({failing, taken}, return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        taken.cancel()
        failing.result()
    await taken
