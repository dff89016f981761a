"""Runs a client's program in its environment, against a live router in front of the actor."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.clients import Client, clients
from tests.support.actor.stage import MANIFEST, act
from tests.support.router import live_router
from tests.support.upstream import ScriptedUpstream, scripted_upstream

PROGRAMS = Path(__file__).parent / "programs"
KEY = "sk-the-clients-own-key"
_SECONDS = 90


@dataclass
class Driven:
    """A client that can be told to do something, and the upstream that it ends at."""

    client: Client
    url: str
    upstream: ScriptedUpstream
    home: Path

    async def does(self, program: str, step: str, model: str) -> Any:
        """Run one step of a program; return what it printed."""
        where = {"CLIENT_ROUTER_URL": self.url, "CLIENT_MODEL": model, "CLIENT_KEY": KEY}
        if self.client.is_node:
            where["CLIENT_HOME"] = str(self.client.folder)
            command = ["node", "--no-warnings", "--experimental-import-meta-resolve", str(PROGRAMS / program), step]
        else:
            command = [str(self.client.folder / "venv" / "bin" / "python"), str(PROGRAMS / program), step]
        told = await self.runs(command, where)
        return json.loads(told.strip().splitlines()[-1])

    async def runs(self, command: list[str], where: Mapping[str, str]) -> str:
        """Run a command in an environment of its own; return what it printed."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}  # noqa: TID251
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.home,
            env={**kept, "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1", **where},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), _SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert (
            process.returncode == 0
        ), f"{command[-1]} ended with {process.returncode}:\n{err.decode()[-3000:]}{out.decode()[-2000:]}"
        return out.decode()


def ready(name: str) -> Client:
    """Return a client whose environment is there, or skip and say why."""
    (client,) = (client for client in clients() if client.name == name)
    if not client.ready:
        pytest.skip(f"{name} has no environment: `python -m scripts.clients {name}` makes it, or says why not")
    return client


@asynccontextmanager
async def driving(name: str, folder: Path, **settings: Any) -> AsyncIterator[Driven]:
    """A client, a router and the actor."""
    client = ready(name)
    home = folder / "home"
    home.mkdir()
    async with scripted_upstream(act) as upstream:
        manifest = MANIFEST.replace("URL0", upstream.url)
        async with live_router(folder, manifest, **settings) as router:
            yield Driven(client, router.url, upstream, home)
