"""CalmServer: serves as uvicorn does, ticks once a second, and ends at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

import pytest
import uvicorn

from router.server.calm import CalmServer
from tests.support.waiting import eventually


class Counted(CalmServer):
    """A server that counts its ticks."""

    ticks = 0

    async def on_tick(self, counter: int) -> bool:
        """Count."""
        self.ticks += 1
        return await super().on_tick(counter)


async def app(_scope: object, _receive: object, _send: object) -> None:
    """Serve nothing."""


def server() -> Counted:
    """Return a server on a free port."""
    return Counted(uvicorn.Config(app, port=0, lifespan="off", log_config=None))


def _from_here(one: Counted) -> None:
    one.should_exit = True


def _from_a_thread(one: Counted) -> None:
    thread = threading.Thread(target=_from_here, args=(one,))
    thread.start()
    thread.join()


def _from_a_signal(one: Counted) -> None:
    one.handle_exit(signal.SIGTERM, None)
    one._captured_signals.clear()  # uvicorn would send it to this process again


@pytest.mark.parametrize("stop", [_from_here, _from_a_thread, _from_a_signal])
async def test_calm_server_ends_when_told_and_not_by_a_tick(stop: Callable[[Counted], None]) -> None:
    """Being told wakes it: the tick that sees it is the next one."""
    one = server()
    task = asyncio.create_task(one.serve())
    await eventually(lambda: one.ticks > 0)
    before = one.ticks
    stop(one)
    await asyncio.wait_for(task, 30)
    assert one.ticks <= before + 2  # the one that sees it, and one that was due


async def test_calm_server_told_before_it_serves_ends() -> None:
    """A signal during the start is not lost."""
    one = server()
    one.should_exit = True
    await asyncio.wait_for(one.serve(), 30)
    assert one.ticks == 0


async def test_calm_server_keeps_the_date() -> None:
    """The `date` header follows the clock from tick to tick."""
    one = server()
    task = asyncio.create_task(one.serve())
    await eventually(lambda: any(name == b"date" for name, _ in one.server_state.default_headers))
    first = one.server_state.default_headers
    await eventually(lambda: one.server_state.default_headers != first)
    one.should_exit = True
    await task
