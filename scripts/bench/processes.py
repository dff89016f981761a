"""Processes of a run: started on a core, in a group of their own, and ended."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.dev.settings import inherited_environment

__all__ = [
    "Cores",
    "Running",
    "choose_cores",
    "clean_environment",
    "free_memory",
    "free_port",
    "on_core",
    "raise_file_limit",
]

_SETTINGS = ("ROUTER_", "LOCAL_AGENT_", "EXTERNAL_", "LLMD_", "SQLITE_", "REDIS_", "DATABASE_", "LITELLM_", "COVERAGE_")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"


@dataclass(frozen=True, slots=True)
class Cores:
    """Where processes run; None: anywhere.

    Args:
        gateway: The core of the gateways.
        load: The core of the mock and the load generator.
        remark: What the reader of the results must know.
    """

    gateway: int | None
    load: int | None
    remark: str


def choose_cores() -> Cores:
    """Return a core for the gateways and another for what drives them, where this machine has them."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None, "unpinned: this system has no processor affinity")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Cores(None, None, "unpinned: there is one core for gateway, mock and load together")
    first = cores[0]
    # Two threads of one physical core would share its caches and units: rather the next real one.
    apart = [core for core in cores[1:] if _physical(core) != _physical(first)]
    return Cores(first, (apart or cores[1:])[0], f"gateways on one core of {len(cores)}, mock and load on another")


def _physical(core: int) -> tuple[str, ...]:
    try:
        names = ("physical_package_id", "core_id")
        return tuple(Path(_TOPOLOGY.format(core, name)).read_text(encoding="utf-8") for name in names)
    except OSError:
        return (str(core),)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on one core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would change a gateway, plus `extra`."""
    kept = {name: value for name, value in inherited_environment().items() if not name.startswith(_SETTINGS)}
    # Python's compiled modules are part of a normal start.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, **extra}


def free_port() -> int:
    """Return a free port below those that systems give to outgoing connections, which come and go meanwhile."""
    while True:
        port = random.randrange(15_000, 30_000)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def raise_file_limit() -> int:
    """Allow this process and its children as many open files as the system lets them; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (65_536, 10_240):  # macOS says "unlimited" and means some tens of thousands
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
                break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_memory() -> int | None:
    """Return the bytes of memory that nobody uses; None where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


class Running:
    """A process that was started here, with its group.

    Args:
        command: What to run.
        log: Where its output goes.
        environment: Its whole environment; None: this process's.
        folder: Where it runs; None: here.
        core: The core it is kept on; None: any.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        core: int | None = None,
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink, on_core(core):
            # A session of its own: Ctrl-C reaches it only through us, and its group can be ended as one.
            self._process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    def last_words(self, count: int = 5, width: int = 500) -> str:
        """Return the end of its output, long lines cut."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(line[:width] for line in lines[-count:])

    def stop(self, grace: float = 10.0) -> None:
        """End it: SIGTERM, after `grace` seconds SIGKILL; then whatever of its group is left."""
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        # macOS says EPERM for a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
