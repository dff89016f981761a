"""A handle on one worker process: start it, talk to it, be told of its death, end it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec

from local_agent import frames
from local_agent.types import Configure, FromWorker, ToWorker

__all__ = ["WorkerDied", "WorkerProcess"]

_ROOT = Path(__file__).resolve().parent.parent
_STREAM_LIMIT = 1 << 20


class WorkerDied(Exception):
    """The worker has ended, or was ended because it gave no sign of life; says which."""


class WorkerProcess:
    """One running worker. Use `start`.

    Args:
        process: The child.
        reader: What it says.
        writer: What it is told.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._outgoing = frames.to_worker()
        self._incoming = frames.from_worker()

    @classmethod
    async def start(cls, configure: Configure, environment: Mapping[str, str]) -> WorkerProcess:
        """Start a worker and tell it what to load.

        The worker holds the other end of a socket pair and ends when ours closes, however we die.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "local_agent.worker",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                cwd=_ROOT,  # importable from there, and never shadowed by a module of the caller's folder
                env=dict(environment),
                start_new_session=True,  # Ctrl-C in a terminal is the parent's business
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=_STREAM_LIMIT)
        worker = cls(process, reader, writer)
        worker.send(configure)
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Tell the worker something; lost if it is dead, which `receive` reports."""
        if not self._writer.is_closing():
            self._writer.write(self._outgoing.encode(message))

    async def receive(self, patience_s: float) -> FromWorker:
        """Return the worker's next message.

        Raises:
            WorkerDied: It has ended, or said nothing for `patience_s` seconds.
        """
        try:
            with anyio.fail_after(patience_s):
                body = await frames.read_frame(self._reader)
        except TimeoutError:
            raise WorkerDied(f"no sign of life for {patience_s:g} s") from None
        except (asyncio.IncompleteReadError, OSError, frames.FrameTooLarge):
            raise WorkerDied("the process ended") from None
        try:
            return self._incoming.decode(body)
        except msgspec.DecodeError as error:
            raise WorkerDied(f"a message that cannot be read: {error}") from None

    async def stop(self, grace_s: float = 0.0) -> str:
        """End the process and return how it ended.

        Args:
            grace_s: How long it may take to end by itself once our end of the socket is closed.
        """
        self._writer.close()
        if grace_s > 0:
            with anyio.move_on_after(grace_s):
                await self._process.wait()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        code = await self._process.wait()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
