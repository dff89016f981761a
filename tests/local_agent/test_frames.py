"""Tests of the frames between the web process and the worker."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from local_agent import frames
from local_agent.types import Beat, Cancel, Finished, FromWorker, Generate, Generation, Phase, Piece


async def test_frames_cross_a_socket_in_order() -> None:
    """Messages arrive whole and in order, however the socket cuts them."""
    ours, theirs = socket.socketpair()
    codec = frames.from_worker()
    sent: list[FromWorker] = [Beat(Phase.DECODE, 3), Piece(1, "é" * 50_000, 2), Finished(1, "stop", 3, 4)]
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs:
        await asyncio.to_thread(theirs.sendall, b"".join(map(codec.encode, sent)))
        assert [codec.decode(await frames.read_frame(reader)) for _ in sent] == sent
    with pytest.raises(asyncio.IncompleteReadError):
        await frames.read_frame(reader)
    writer.close()
    await writer.wait_closed()


def test_frames_reach_a_blocking_reader() -> None:
    """The worker's side reads the same frames and hears the end."""
    ours, theirs = socket.socketpair()
    codec = frames.to_worker()
    with theirs:
        with ours:
            ours.sendall(codec.encode(Generate(7, Generation(prompt="x"))) + codec.encode(Cancel(7)))
            assert codec.decode(frames.receive_frame(theirs)) == Generate(7, Generation(prompt="x"))
            assert codec.decode(frames.receive_frame(theirs)) == Cancel(7)
        with pytest.raises(EOFError):
            frames.receive_frame(theirs)


def test_frames_refuse_an_absurd_length() -> None:
    """A stream that is out of step is noticed instead of waited for."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack(">I", 0xFFFFFFFF))
        with pytest.raises(frames.FrameTooLarge):
            frames.receive_frame(theirs)
