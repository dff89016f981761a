"""What a real cluster said, played again: vLLM behind the chart's Envoy, from `tests/cassettes/cluster/`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.vllm.exchange import Exchange, read_exchange
from tests.support.process import ROOT
from tests.support.upstream import Script, ScriptedReply, SeenRequest

__all__ = ["RECORDINGS", "billed", "events_of", "recording", "recordings", "replays", "text_of"]

RECORDINGS = ROOT / "tests" / "cassettes" / "cluster"


def recordings() -> list[str]:
    """Return the names of all recordings."""
    return sorted(path.stem for path in RECORDINGS.glob("*.yaml"))


def recording(name: str) -> Exchange:
    """Return one of them."""
    return read_exchange(RECORDINGS / f"{name}.yaml")


def replays(name: str, paths: Mapping[str, str] | None = None) -> Script:
    """Return a script that answers as it was recorded: head, chunk after chunk, and how it ended.

    Args:
        name: The recording.
        paths: Paths that another recording answers.
    """
    told = {path: recording(other) for path, other in (paths or {}).items()}
    usual = recording(name)

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        exchange = told.get(request.path, usual)
        await reply.raw(exchange.head)
        for piece in exchange.pieces():
            await reply.raw(piece)
        if exchange.ends == "closed":
            reply._writer.close()
        elif exchange.ends == "reset":
            reply.cut()

    return script


# --- what a router makes of it --------------------------------------------------------------------


def events_of(body: bytes) -> list[str]:
    """Return what the `data:` lines of a stream say."""
    return [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]


def text_of(events: list[str]) -> str:
    """Return what the events of a chat say."""
    told = [json.loads(event) for event in events if event != "[DONE]"]
    choices = [event["choices"][0] for event in told if event.get("choices")]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def billed(folder: Path) -> list[dict[str, Any]]:
    """Return what was billed, once the router has stopped."""
    with sqlite3.connect(folder / "models.db") as database:
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("select * from usage")]
    database.close()
    return found
