"""A recording and its readers."""

from __future__ import annotations

import asyncio
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.delivery.recording import Reader, Recording, Room
from shared.errors import InternalError, NotReplayable
from shared.sse import encode_event


async def read(reader: Reader, chance: random.Random) -> bytes:
    """Read all, with pauses at odd places."""
    await reader.ready()
    text = b""
    while True:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        data, last = await reader.more()
        text += data
        if last:
            return text


def said(text: bytes) -> list[bytes]:
    """Return what events say."""
    return re.findall(rb"^data: (.*)$", text, re.MULTILINE)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(0, 2**32), st.integers(1, 4))
def test_recording_tells_every_reader_the_same(sizes: list[int], seed: int, readers: int) -> None:
    """Each reader gets every event in order, whenever it comes and however slow it is."""

    async def run() -> None:
        chance = random.Random(seed)
        recording = Recording("0" * 16, 10**6, Room(10**9))
        events = [b"%d-%b" % (index, b"x" * size) for index, size in enumerate(sizes)]
        tasks = []
        for number in range(readers):
            reader = recording.attach(again=number > 0, place=None)
            tasks.append(asyncio.ensure_future(read(reader, chance)))
        recording.begin(())
        for event in events[:-1]:
            assert recording.push(encode_event(event))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        await recording.end(encode_event(events[-1]))
        late = recording.attach(again=True, place=None)
        answers = [*await asyncio.gather(*tasks), await read(late, chance)]
        assert all(said(answer) == events for answer in answers)

    asyncio.run(run())


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_outgrown_recording_stays_within_its_bound(seed: int, limit: int) -> None:
    """The first reader gets all, at a pace that holds the writer back; what is held never grows far."""

    async def run() -> None:
        chance = random.Random(seed)
        recording = Recording("0" * 16, limit, Room(10**9))
        first = asyncio.ensure_future(read(recording.attach(again=False, place=None), chance))
        recording.begin(())
        events = [b"%d" % index * 10 for index in range(60)]
        for event in events:
            if not recording.push(encode_event(event)):
                await recording.drain()
            assert recording._size <= limit
        await recording.end()
        assert said(await first) == events
        recording.keep = True
        if recording.outgrown:
            assert recording.tape() is None
            with pytest.raises(NotReplayable):
                await recording.attach(again=True, place=None).ready()

    asyncio.run(run())


async def test_failed_recording_tells_all_who_wait() -> None:
    """An error before the head reaches each reader, and one that comes later too."""
    recording = Recording("0" * 16, 100, Room(10**9))
    waiting = [asyncio.ensure_future(recording.attach(again=False, place=None).ready()) for _ in range(3)]
    await asyncio.sleep(0)
    recording.fail(InternalError("no"))
    for task in [*waiting, asyncio.ensure_future(recording.attach(again=True, place=None).ready())]:
        with pytest.raises(InternalError):
            await task
    assert recording.tape() is None


async def test_reader_of_another_answer_is_refused() -> None:
    """A place in one answer is no place in another: two texts are never joined."""
    recording = Recording("0" * 16, 100, Room(10**9))
    recording.begin(())
    with pytest.raises(NotReplayable):
        await recording.attach(again=True, place=("1" * 16, 1)).ready()
    await recording.attach(again=True, place=("0" * 16, 1)).ready()


async def test_reader_that_leaves_frees_the_writer() -> None:
    """A writer held back by a slow first reader goes on with the next one's pace once the first has left."""
    recording = Recording("0" * 16, 60, Room(10**9))
    slow = recording.attach(again=False, place=None)
    recording.begin(())
    recording.push(encode_event(b"a"))
    next_one = recording.attach(again=True, place=None)
    await next_one.more()
    assert not recording.push(encode_event(b"b" * 60))
    draining = asyncio.ensure_future(recording.drain())
    await asyncio.sleep(0)
    recording.detach(slow)
    assert said((await next_one.more())[0]) == [b"b" * 60]
    await asyncio.wait_for(draining, 10)


async def test_recordings_share_their_room() -> None:
    """Without room a stream keeps to little and forgets what was read; what nobody can read gives its room back."""
    room = Room(100_000)
    first = Recording("0" * 16, 10**6, room)
    reader = first.attach(again=False, place=None)
    first.begin(())
    assert first.push(encode_event(b"a" * 90_000))
    second = Recording("1" * 16, 10**6, room)
    other = second.attach(again=False, place=None)
    second.begin(())
    assert not second.push(encode_event(b"b" * 70_000))
    assert second.outgrown
    await other.more()
    assert second._size == 0
    second.finish()
    second.detach(other)
    await first.end()
    first.finish()
    assert said((await reader.more())[0]) == [b"a" * 90_000]
    first.detach(reader)
    assert room.left == 100_000
