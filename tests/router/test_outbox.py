"""The outbox: order, togetherness, and nothing to those who are gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from router.outbox import Outbox


@dataclass
class Sink:
    """A transport that keeps what is written to it."""

    got: list[bytes] = field(default_factory=list)
    closing: bool = False

    def write(self, data: bytes) -> None:
        """Keep bytes."""
        self.got.append(data)

    def is_closing(self) -> bool:
        """Return what the test says."""
        return self.closing


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=4), st.booleans()), max_size=30))
def test_each_sink_gets_its_bytes_in_order(writes: list[tuple[int, bytes, bool]]) -> None:
    """Whenever the loop has its turn, and whoever else writes, one sink's bytes stay in order and whole."""

    async def run() -> None:
        outbox, sinks = Outbox(asyncio.get_running_loop()), [Sink() for _ in range(4)]
        for step, (number, data, turn) in enumerate(writes):
            outbox.open = step % 7
            outbox.write(sinks[number], data)
            if turn:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        for number, sink in enumerate(sinks):
            assert sink.got == [data for wanted, data, _ in writes if wanted == number]

    asyncio.run(run())


async def test_writes_wait_for_all_that_is_ready() -> None:
    """What is written in one turn goes out after everything that was ready has run."""
    loop = asyncio.get_running_loop()
    outbox, sink = Outbox(loop), Sink()
    outbox.open = 10
    before: list[bytes] = []
    loop.call_soon(lambda: before.extend(sink.got))
    outbox.write(sink, b"1")
    outbox.write(sink, b"2")
    assert sink.got == []
    await asyncio.sleep(0)
    assert (before, sink.got) == ([], [b"1", b"2"])


async def test_flush_sends_at_once_and_skips_who_is_gone() -> None:
    """A connection that is to close gets its bytes first; one that is closing gets none."""
    outbox, here, gone = Outbox(asyncio.get_running_loop()), Sink(), Sink(closing=True)
    outbox.open = 10
    outbox.write(here, b"x")
    outbox.write(gone, b"x")
    outbox.flush()
    assert (here.got, gone.got) == ([b"x"], [])
    await asyncio.sleep(0)
    assert here.got == [b"x"]


async def test_few_wait_for_nothing() -> None:
    """With a request or two under way there is nothing to wait for."""
    outbox, sink = Outbox(asyncio.get_running_loop()), Sink()
    outbox.open = 1
    outbox.write(sink, b"x")
    assert sink.got == [b"x"]


async def test_nothing_is_written_to_those_who_are_gone() -> None:
    """Neither at once nor later: a transport that is closed may refuse."""
    outbox, gone = Outbox(asyncio.get_running_loop()), Sink(closing=True)
    for exchanges in (0, 10):
        outbox.open = exchanges
        outbox.write(gone, b"x")
        await asyncio.sleep(0)
    assert gone.got == []
