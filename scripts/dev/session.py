"""One run of `make dev`: the order of starting, watching and stopping."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import httpx

from scripts.dev.banner import banner
from scripts.dev.child import Child, ChildDied
from scripts.dev.console import Console
from scripts.dev.ports import PortTaken, Service, require_free
from scripts.dev.readiness import until, wait_ready
from scripts.dev.settings import DevSettings, inherited_environment
from scripts.dev.valkey import NoValkey, answers, embedded

__all__ = ["Session"]

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = {"router": 10.0, "agent": 10.0, "valkey": 5.0}
_AGENT = (sys.executable, "-m", "local_agent")
_ROUTER = (sys.executable, "-m", "router")


class Session:
    """Starts what is needed, waits until it answers, and stops all of it in the end.

    A service that dies ends the session, with its last lines. A Valkey that dies does not: the
    router works without its cache, and a start of Redis by the user must not find its port taken.

    Args:
        settings: Where everything listens.
        console: Where the user reads.
        agent: The agent's command.
        router: The router's command.
    """

    def __init__(
        self,
        settings: DevSettings,
        console: Console,
        agent: Sequence[str] = _AGENT,
        router: Sequence[str] = _ROUTER,
    ) -> None:
        self._settings = settings
        self._console = console
        self._agent = agent
        self._router = router
        self._children: list[Child] = []
        self._work: asyncio.Task[int] | None = None
        self._asked_to_stop = 0

    async def run(self) -> int:
        """Run to the end; return the exit status: 0 when the user ended it, else 1."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        self._work = asyncio.create_task(self._start_and_watch())
        try:
            return await self._work
        except asyncio.CancelledError:
            return 0
        except (ChildDied, PortTaken) as error:
            self._console.say(str(error))
            return 1
        finally:
            await self._stop_all()

    def _on_signal(self) -> None:
        """First time: stop in order. Again: kill."""
        self._asked_to_stop += 1
        if self._asked_to_stop == 1 and self._work is not None:
            self._console.say("stopping (once more to kill)")
            self._work.cancel()
            return
        for child in self._children:
            child.kill()

    async def _start_and_watch(self) -> int:
        settings, console = self._settings, self._console
        clock = asyncio.get_running_loop().time
        began = clock()
        agent_address, router_address = _addresses(settings)
        await require_free(agent_address)
        await require_free(router_address)
        redis_url = await self._redis()
        environment = settings.environment(redis_url)
        agent = await self._start("agent", self._agent, environment)
        router = await self._start("router", self._router, environment)
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            console.say(f"waiting for the router at {settings.router_url} and the agent at {settings.local_agent_url}")
            agent_says, router_says = await _together(
                wait_ready(agent, settings.local_agent_url, client, console),
                wait_ready(router, settings.router_url, client, console),
            )
            keyed = await self._await_models(router, client)
            if not keyed:
                router_says = await wait_ready(router, settings.router_url, client, console)
        console.block(banner(settings.router_url, agent_says, router_says, clock() - began, keyed))
        return await self._watch((agent, router))

    async def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        child = Child(name, command, environment, self._settings.folder, self._console)
        self._children.append(child)
        await child.start()
        self._console.say(f"started {name} (process {child.pid}, log {child.log_path})")
        return child

    async def _redis(self) -> str:
        """Return the URL of a Redis that answers; start one where none does."""
        url = self._settings.redis_url
        try:
            if await answers(url):
                self._console.say("Redis answers at REDIS_URL; using it")
                return url
            stand = embedded(url, self._settings.folder)
        except NoValkey as error:
            self._console.say(f"no Redis answers and there is no embedded one here ({error}); going on without a cache")
            return url
        except ValueError as error:
            self._console.say(f"REDIS_URL cannot be read ({error}); going on without a cache")
            return url
        if stand.url != url:
            self._console.say(f"no Redis answers at REDIS_URL; an embedded Valkey at {stand.url} stands in for it")
        self._settings.folder.mkdir(parents=True, exist_ok=True)
        child = await self._start("valkey", stand.command, inherited_environment())
        if not await until(lambda: answers(stand.url), child, patience=10.0):
            raise ChildDied(child)
        return stand.url

    async def _await_models(self, router: Child, client: httpx.AsyncClient) -> bool:
        """Wait until the router has heard of a model; return whether it wants a key instead.

        The agent registers itself a moment after it is ready. Where that fails, the banner says
        what the router lacks.
        """
        keyed = False

        async def has_models() -> bool:
            nonlocal keyed
            try:
                reply = await client.get(f"{self._settings.router_url}/v1/models")
                keyed = reply.status_code == 401
                return keyed or bool(reply.status_code == 200 and reply.json()["data"])
            except (httpx.HTTPError, ValueError, KeyError):
                return False

        await until(has_models, router, patience=15.0)
        return keyed

    async def _watch(self, services: Sequence[Child]) -> int:
        """Wait for the first death among the services."""
        waits = {asyncio.create_task(child.wait()): child for child in self._children}
        try:
            while True:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    child = waits.pop(task)
                    if child in services:
                        raise ChildDied(child)
                    self._console.say(child.obituary())
                    self._console.say("the router goes on without its cache; start make dev anew to have it back")
        finally:
            for task in waits:
                task.cancel()

    async def _stop_all(self) -> None:
        """Stop in the reverse order of starting: the router first, so that it can finish answers."""
        for child in reversed(self._children):
            if not await child.stop(_GRACE[child.name]):
                self._console.say(f"{child.name} did not stop in time and was killed")
        if self._children:
            self._console.say("stopped; nothing is left running")


async def _together(*works: Coroutine[Any, Any, T]) -> list[T]:
    """Return the results of all; when one raises, cancel the others and raise that."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _addresses(settings: DevSettings) -> tuple[Service, Service]:
    agent = Service(
        "local agent",
        settings.agent_host,
        settings.agent_port,
        settings.local_agent_url,
        "LOCAL_AGENT_PORT",
        frozenset({"status", "phase"}),
    )
    router = Service(
        "router",
        settings.router_host,
        settings.router_port,
        settings.router_url,
        "ROUTER_PORT",
        frozenset({"status", "checks"}),
    )
    return agent, router
