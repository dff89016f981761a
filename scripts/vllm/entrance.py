"""The entrance of a cluster: Envoy under what the chart renders, and a stand-in for the endpoint picker."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.envoy import Envoy, envoy
from tests.support.helm import CHARTS, render
from tests.support.picker import Asked, Picker, Refusal
from tests.support.process import free_port

__all__ = ["Entrance", "entrance"]

_PICKED = "x-gateway-destination-endpoint"
_RESPONSE_BODY = 5
"""The kind of message with a piece of an answer."""


@dataclass
class Entrance:
    """A running entrance.

    Attributes:
        envoy: Its process.
        worker: The port that the picker sends requests to.
        refusal: What it refuses all requests with, and answers that have begun, where it does.
    """

    envoy: Envoy
    worker: int
    refusal: Refusal | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.envoy.url.rpartition(":")[2])

    def pick(self, _: Asked) -> dict[str, str] | Refusal:
        """Return a worker, as a header, or a refusal."""
        return self.refusal or {_PICKED: f"127.0.0.1:{self.worker}"}


class _Evicting(Picker):
    """A picker that takes a worker from an answer that has begun, once it refuses."""

    def _replies(self, asked: Asked, kind: int, content: bytes) -> list[bytes]:
        refuses = kind == _RESPONSE_BODY and isinstance(self.pick(asked), Refusal)
        return [self._picked(asked)] if refuses else super()._replies(asked, kind, content)


@asynccontextmanager
async def entrance(
    worker: int | None = None, sets: tuple[str, ...] = (), away: bool = False
) -> AsyncIterator[Entrance]:
    """Run an entrance while the context lasts.

    Args:
        worker: The worker's port; None: there is none, and the Service of all workers names none either.
        sets: Values of the chart, as `--set` takes them.
        away: Whether the picker is.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = render(CHARTS / "chart", {"engine": {"kind": "sim"}}, *sets).one("ConfigMap", "-proxy")["data"]
        if worker is None:
            data = _without_workers(data)
        asked = _Evicting()
        await asked.start()
        try:
            port = free_port() if away else asked.port
            worker = free_port() if worker is None else worker
            there = Entrance(await asyncio.to_thread(stack.enter_context, envoy(data, folder, port, worker)), worker)
            asked.pick = there.pick
            yield there
            await asyncio.to_thread(stack.close)
        finally:
            await asked.stop()


def _without_workers(data: Mapping[str, str]) -> dict[str, str]:
    """Return a ConfigMap whose Service of all workers names none, as it does while all are starting."""
    config = yaml.safe_load(data["envoy.yaml"])
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "any_worker":
            cluster["load_assignment"]["endpoints"] = []
    return {**data, "envoy.yaml": yaml.safe_dump(config)}
