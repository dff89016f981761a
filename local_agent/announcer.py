"""Tells a router that this agent exists, and keeps telling it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from local_agent.supervisor import Status

__all__ = ["Announcer", "Identity", "agent_id", "reachable_url"]

_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who announces itself.

    Attributes:
        id: Stable over restarts.
        name: For people.
        url: Where the router reaches the agent.
        version: The agent's version.
    """

    id: str
    name: str
    url: str
    version: str


def agent_id(cache_dir: Path, name: str, port: int) -> str:
    """Return an id that is stable over restarts and differs between machines and between ports."""
    seed_file = cache_dir / "machine-id"
    try:
        seed = seed_file.read_text("ascii").strip()
    except FileNotFoundError:
        cache_dir.mkdir(parents=True, exist_ok=True)
        fresh = cache_dir / f".machine-id.{secrets.token_hex(4)}"
        fresh.write_text(secrets.token_hex(16), "ascii")
        try:
            seed_file.hardlink_to(fresh)  # the first of several agents wins
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
        seed = seed_file.read_text("ascii").strip()
    return "agent_" + hashlib.sha256(f"{seed}|{name}|{port}".encode()).hexdigest()[:16]


def reachable_url(host: str, port: int, router_url: str) -> str:
    """Return the URL under which a router can reach this agent.

    An agent that listens on every address is reached at the one that its packets to the router come from.
    """
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        target = urlsplit(router_url).hostname or "127.0.0.1"
        try:
            family = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family[0], socket.SOCK_DGRAM) as probe:
                probe.connect(family[4])  # sends nothing: it only picks a route
                host = str(probe.getsockname()[0])
        except OSError:
            host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Announcer:
    """Registers with a router once the agent is ready, then sends heartbeats.

    Args:
        router_url: The router.
        token: What the router expects from agents, if anything.
        identity: Who we are.
        status: Returns the supervisor's state.
        wait_ready: Returns when a model is served.
        models: Returns the entries of `/v1/models`.
    """

    def __init__(
        self,
        router_url: str,
        token: str | None,
        identity: Identity,
        status: Callable[[], Status],
        wait_ready: Callable[[], Awaitable[None]],
        models: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._router_url = router_url.rstrip("/")
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._identity = identity
        self._status = status
        self._wait_ready = wait_ready
        self._models = models
        self._away = False

    async def run(self) -> None:
        """Announce for ever; whatever the router does, this neither ends nor disturbs serving."""
        failures = 0
        async with httpx.AsyncClient(
            base_url=self._router_url, headers=self._headers, timeout=10.0, trust_env=False
        ) as client:
            while True:
                try:
                    await self._stay_registered(client)
                    failures = 0  # the router forgot us, or our model changed: register again at once
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    self._went_away(error)
                    await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                    failures += 1

    async def _stay_registered(self, client: httpx.AsyncClient) -> None:
        """Register and send heartbeats until a new registration is due."""
        await self._wait_ready()
        models = self._models()
        interval = await self._register(client, models)
        while True:
            await asyncio.sleep(interval)
            status = self._status()
            if status.ready and self._models() != models:
                return
            beat = {"id": self._identity.id, "queued": status.queued, "running": status.running}
            response = await client.post("/agents/heartbeat", json=beat)
            if response.status_code == 404:
                return
            response.raise_for_status()
            self._came_back()

    async def _register(self, client: httpx.AsyncClient, models: list[dict[str, Any]]) -> float:
        """Register and return the seconds between heartbeats."""
        identity, status = self._identity, self._status()
        response = await client.post(
            "/agents/register",
            json={
                "id": identity.id,
                "name": identity.name,
                "url": identity.url,
                "version": identity.version,
                "device": status.model.device if status.model else None,
                "models": models,
            },
        )
        response.raise_for_status()
        interval = float(response.json()["heartbeat_interval_s"])
        self._came_back()
        _log.info("registered with the router", extra={"fields": {"router": self._router_url, "url": identity.url}})
        return min(300.0, max(0.1, interval))

    def _went_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            reason = str(error) or type(error).__name__
            _log.warning(
                "the router does not answer; trying again until it does",
                extra={"fields": {"router": self._router_url, "reason": reason}},
            )

    def _came_back(self) -> None:
        if self._away:
            self._away = False
            _log.info("the router answers again", extra={"fields": {"router": self._router_url}})
