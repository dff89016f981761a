"""One process that `make dev` has started: its log, its death, its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.dev.console import Console, readable

__all__ = ["Child", "ChildDied"]

_LAST_LINES = 15
_LINE_LIMIT = 1024 * 1024


class ChildDied(Exception):
    """A process ended that should be running."""

    def __init__(self, child: Child) -> None:
        super().__init__(child.obituary())
        self.child = child


class Child:
    """A process in a group of its own, so that Ctrl-C reaches it only through us.

    Args:
        name: Prefix of its lines and name of its log file.
        command: What to run.
        environment: Its whole environment.
        folder: Where its log goes; the log of an earlier run is replaced.
        console: Where its lines are shown.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, console: Console
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._command = command
        self._environment = environment
        self._console = console
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process's id, which is also its group's; None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process and follow its output."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=dict(self._environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=_LINE_LIMIT,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with self.log_path.open("w", encoding="utf-8") as log:
            while True:
                try:
                    raw = await process.stdout.readline()
                except ValueError:  # a line longer than the limit: what was read is dropped
                    continue
                if not raw:
                    return
                line = raw.decode("utf-8", "replace").rstrip()
                log.write(line + "\n")
                log.flush()
                self._last.append(line)
                for part in readable(line).splitlines():
                    self._console.line(self.name, part)

    async def wait(self) -> int:
        """Return the exit status once the process has ended and its last line has been read."""
        assert self._process is not None
        status = await self._process.wait()
        if not self._stopping:
            # A grandchild may hold the pipe open; it must not survive its parent.
            self._signal_group(signal.SIGKILL)
        if self._reading is not None:
            await self._reading
        return status

    async def stop(self, grace: float) -> bool:
        """End the process: SIGTERM to it, after `grace` seconds SIGKILL to its whole group.

        Returns:
            Whether it went by itself.
        """
        if self._process is None:
            return True
        self._stopping = True
        polite = True
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), grace)
            except asyncio.TimeoutError:
                polite = False
        self.kill()
        await self._process.wait()
        if self._reading is not None:
            await self._reading
        return polite

    def kill(self) -> None:
        """Kill the process and everything in its group at once."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
            return

    def obituary(self) -> str:
        """Return how the process ended and its last lines, for the user."""
        status = None if self._process is None else self._process.returncode
        if status is None:
            cause = "stopped answering"
        elif status < 0:
            cause = f"was ended by {signal.Signals(-status).name}"
        else:
            cause = f"ended with status {status}"
        lines = [f"{self.name} {cause}. Its last lines (all of them are in {self.log_path}):"]
        lines += [f"    {part}" for line in self._last for part in readable(line).splitlines()]
        return "\n".join(lines if self._last else [f"{self.name} {cause} without a word."])
