"""The pulse: who gets a sign of life, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from router.delivery.pulse import Pulse
from router.interfaces import Headers


class HandLoop:
    """An event loop's timers, moved by hand."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.delay = 0.0

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Keep a callback."""
        self.delay = delay
        self.due.append(callback)
        return cast("asyncio.TimerHandle", self)

    def cancel(self) -> None:
        """Forget what is kept."""
        self.due.clear()

    def turn(self, times: int = 1) -> None:
        """Let so many timers fire."""
        for _ in range(times):
            (callback,) = self.due
            self.due.clear()
            callback()


class Listening:
    """An audience that writes down what it gets."""

    def __init__(self) -> None:
        self.said = True
        self.stuck = False
        self.got: list[bytes] = []
        self.given_up = False

    def ping(self, data: bytes, head: Callable[[], Headers]) -> None:
        """Write down a ping, as a connection does that counts it as something said."""
        self.got.append(data)
        self.said = True

    def give_up(self) -> None:
        """Write down the end."""
        self.given_up = True


def pulse(seconds: float, **more: Any) -> tuple[Pulse, HandLoop, Listening]:
    """Return a pulse with one stream, and what moves and sees it."""
    loop, audience = HandLoop(), Listening()
    made = Pulse(cast("asyncio.AbstractEventLoop", loop), seconds, **more)
    made.watch(audience, b"ping", lambda: ())
    return made, loop, audience


@pytest.mark.parametrize(("seconds", "looks"), [(15, 15), (2, 4), (1, 4), (4.5, 5)])
def test_pulse_pings_after_so_many_seconds_of_silence(seconds: float, looks: int) -> None:
    """Not before the time is over, and at most one look later; then again after as long."""
    _, loop, audience = pulse(seconds)
    loop.turn(looks)
    assert audience.got == []
    assert loop.delay * looks >= seconds
    loop.turn()
    assert audience.got == [b"ping"]
    loop.turn(looks)
    assert audience.got == [b"ping"]
    loop.turn()
    assert audience.got == [b"ping", b"ping"]


def test_pulse_leaves_a_stream_in_motion_alone() -> None:
    """Whoever hears something between two looks needs no sign of life."""
    _, loop, audience = pulse(4)
    for _ in range(50):
        audience.said = True
        loop.turn(3)
    assert audience.got == []


def test_pulse_is_silent_where_it_is_turned_off() -> None:
    """With 0 seconds nobody gets a ping."""
    _, loop, audience = pulse(0)
    loop.turn(1000)
    assert audience.got == []


def test_pulse_gives_up_on_a_client_that_takes_nothing() -> None:
    """A client that is held back gets no ping, and is left once its time is over."""
    _, loop, audience = pulse(1, patience=10)
    audience.stuck = True
    loop.turn(40)
    assert not audience.given_up
    loop.turn()
    assert audience.given_up
    assert audience.got == []


def test_pulse_rests_while_nothing_is_open() -> None:
    """Without a stream there is no timer; a new stream sets it again."""
    made, loop, audience = pulse(4)
    second = made.watch(Listening(), b"ping", lambda: ())
    made.leave(second)
    loop.turn(2)
    assert len(loop.due) == 1
    made.close()
    assert len(loop.due) == 0
    third = Pulse(cast("asyncio.AbstractEventLoop", loop), 4)
    vigil = third.watch(audience, b"ping", lambda: ())
    third.leave(vigil)
    loop.turn()
    assert len(loop.due) == 0
    third.watch(audience, b"ping", lambda: ())
    assert len(loop.due) == 1
