"""Waiting for a service, with what it says about itself while one waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from scripts.dev.child import Child, ChildDied
from scripts.dev.console import Console

__all__ = ["describe_phase", "until", "wait_ready"]

_POLL = 0.2
_REMINDER = 15.0


async def until(probe: Callable[[], Awaitable[bool]], child: Child, patience: float) -> bool:
    """Ask `probe` again and again; return whether it came true in `patience` seconds.

    Raises:
        ChildDied: The process ended meanwhile.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + patience
    while not await probe():
        if not child.running:
            await child.wait()
            raise ChildDied(child)
        if clock() >= end:
            return False
        await asyncio.sleep(_POLL)
    return True


async def wait_ready(child: Child, url: str, client: httpx.AsyncClient, console: Console) -> Mapping[str, Any]:
    """Return what `/readyz` says once it says 200; until then show what the service is doing.

    There is no time limit: a first start downloads weights. Ctrl-C ends the wait.

    Raises:
        ChildDied: The process ended before it was ready.
    """
    clock = asyncio.get_running_loop().time
    began = spoke = clock()
    said = ""
    while True:
        ready, fields = await _ask(url, client)
        if ready:
            return fields
        if not child.running:
            await child.wait()
            raise ChildDied(child)
        doing = describe_phase(fields)
        if doing and doing != said:
            console.line(child.name, doing)
            said, spoke = doing, clock()
        elif clock() - spoke >= _REMINDER:
            console.line(child.name, f"{said or 'starting'} ({clock() - began:.0f} s so far; log: {child.log_path})")
            spoke = clock()
        await asyncio.sleep(_POLL)


async def _ask(url: str, client: httpx.AsyncClient) -> tuple[bool, Mapping[str, Any]]:
    try:
        reply = await client.get(f"{url}/readyz")
        fields = reply.json()
    except (httpx.HTTPError, ValueError):
        return False, {}
    return reply.status_code == 200, fields if isinstance(fields, dict) else {}


def describe_phase(fields: Mapping[str, Any]) -> str:
    """Return `/readyz` of an agent that is not ready yet as words, progress in steps of 10 %."""
    phase = fields.get("phase")
    if not isinstance(phase, str):
        return ""
    words = [phase, str(fields.get("model") or fields.get("requested_model") or "")]
    progress = fields.get("progress")
    if isinstance(progress, dict) and progress.get("total"):
        done, total = float(progress["done"]), float(progress["total"])
        size = f" of {total / 1e6:.0f} MB" if phase == "downloading" else ""
        words.append(f"{int(done / total * 10) * 10} %{size}")
    if fields.get("last_error"):
        words.append(f"(last error: {fields['last_error']})")
    return " ".join(word for word in words if word)
