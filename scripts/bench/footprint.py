"""What a router costs before it has done anything: start time, memory, CPU at rest, imports, installed size.

`python -m scripts.bench.footprint` starts real routers (empty registry and no Redis, and one over a tiny upstream);
`--install` also installs the project into a clean virtual environment, which takes a while; `--json` prints the
figures for other programs. Memory and CPU are read from `/proc`, so they are Linux's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["cpu_at_work", "installed_bytes", "main", "proportional_memory"]

ROOT = Path(__file__).parents[2]
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
_QUESTION = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}).encode()
_MANIFEST = """\
backends:
  - {name: tiny, dialect: openai, base_url: "http://127.0.0.1:%d/v1", tier: external}
models:
  - {id: tiny, deployments: [{backend: tiny}]}
"""
_TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
_MEBIBYTE = 1024 * 1024
_PATIENCE = 60.0


class _Tiny(BaseHTTPRequestHandler):
    """Answers every POST with one short completion."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second of two would wait for an acknowledgement

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(_ANSWER)))
        self.end_headers()
        self.wfile.write(_ANSWER)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


@contextmanager
def _upstream() -> Iterator[int]:
    """Run the tiny upstream on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tiny)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _router(python: str, settings: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run a router; yield its process and when it was started (`time.perf_counter` seconds)."""
    environment = {"PATH": os.defpath, "REDIS_URL": "redis://127.0.0.1:1/0", "LOCAL_AGENT_URL": "off", **settings}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [python, "-m", "router"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process, begun
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _first_200(process: subprocess.Popen[bytes], port: int, method: str, path: str, body: bytes | None) -> float:
    """Ask until the answer is 200; return when it came (`time.perf_counter` seconds)."""
    until = time.perf_counter() + _PATIENCE
    while process.poll() is None and time.perf_counter() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            if reply.status == 200:
                return time.perf_counter()
        except (OSError, HTTPException):
            time.sleep(0.002)
        finally:
            connection.close()
    raise RuntimeError(f"the router gave no answer of success (exit code {process.returncode})")


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used; unlike the time of day it suffers little from neighbours."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_Start = tuple[float, float]
"""Seconds from exec to the first proxied answer, and the CPU seconds that the router used for it."""


def _start_times(python: str, extra: dict[str, str], rounds: int) -> tuple[list[_Start], list[_Start]]:
    """Return what starts take, over a new registry and over that same one."""
    fresh: list[_Start] = []
    again: list[_Start] = []
    with _upstream() as upstream:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                manifest = Path(folder) / "registry.yaml"
                manifest.write_text(_MANIFEST % upstream, encoding="utf-8")
                for times in (fresh, again):
                    port = _free_port()
                    settings = {
                        "ROUTER_PORT": str(port),
                        "ROUTER_REGISTRY_FILE": str(manifest),
                        "SQLITE_DB_PATH": str(Path(folder) / "models.db"),
                        **extra,
                    }
                    with _router(python, settings) as (process, begun):
                        answered = _first_200(process, port, "POST", "/v1/chat/completions", _QUESTION)
                        times.append((answered - begun, _cpu_seconds(process.pid)))
    return fresh, again


def proportional_memory(pid: int) -> int:
    """Return a process's proportional set size in bytes: its own pages and its share of common ones.

    Raises:
        OSError: There is no such process, or no `/proc`.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_at_work(pid: int) -> float:
    """Return the CPU milliseconds that a process's living threads have used, by the scheduler's clock.

    Raises:
        OSError: There is no such process, or no `/proc`.
    """
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads) / 1e6


def _at_rest(python: str, extra: dict[str, str], settle: float, watch: float) -> tuple[int, float]:
    """Return what a router takes that has started and serves nothing.

    Args:
        python: The interpreter.
        extra: Its settings.
        settle: Seconds after its start before memory is read.
        watch: Seconds to watch its CPU afterwards.

    Returns:
        Proportional memory in bytes; CPU in milliseconds a second.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = {"SQLITE_DB_PATH": str(Path(folder) / "models.db"), **extra}
        for _ in range(2):  # the second start is the ordinary one: nothing is left to migrate
            port = _free_port()
            with _router(python, {**settings, "ROUTER_PORT": str(port)}) as (process, _):
                _first_200(process, port, "GET", "/healthz", None)
                time.sleep(settle)
                memory = proportional_memory(process.pid)
                used, since = cpu_at_work(process.pid), time.monotonic()
                time.sleep(watch)
                cpu = (cpu_at_work(process.pid) - used) / (time.monotonic() - since)
    return memory, cpu


def _slowest_imports(python: str, count: int) -> list[tuple[str, float]]:
    """Return the modules whose own code takes longest while the router is imported, in milliseconds."""
    command = [python, "-X", "importtime", "-c", "import router.__main__, router.main"]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    rows = []
    for line in report.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if own.strip().isdigit():
            rows.append((rest.partition("|")[2].strip(), int(own) / 1000))
    return sorted(rows, key=lambda row: -row[1])[:count]


def installed_bytes(site_packages: Path) -> tuple[int, int]:
    """Return what an environment's packages take without pip and setuptools: sizes of files, and on disk."""
    size = blocks = 0
    for entry in site_packages.iterdir():
        if entry.name.partition("-")[0] in _TOOLS or entry.stem in _TOOLS:
            continue
        for path in [entry, *entry.rglob("*")]:
            if path.is_file():
                found = path.stat()
                size, blocks = size + found.st_size, blocks + found.st_blocks * 512
    return size, blocks


def _install() -> tuple[int, int]:
    """Install the router alone into a clean environment and return what it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        # From a copy: building leaves files behind that would be part of the next build.
        for package in ("router", "shared", "local_agent"):
            shutil.copytree(ROOT / package, folder / "source" / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, folder / "source" / file)
        subprocess.run([folder / "venv/bin/pip", "install", "--quiet", folder / "source"], check=True)
        (site_packages,) = (folder / "venv").glob("lib/python*/site-packages")
        return installed_bytes(site_packages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.footprint", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--install", action="store_true", help="also install into a clean environment (slow)")
    parser.add_argument("--rounds", type=int, default=7, help="starts to time (%(default)s)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to start routers with")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the routers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    extra = dict(pair.split("=", 1) for pair in chosen.set)
    fresh, again = _start_times(chosen.python, extra, chosen.rounds)
    memory, cpu = _at_rest(chosen.python, extra, settle=1.0, watch=5.0)
    figures: dict[str, float] = {
        "start_fresh_s": round(statistics.median(start for start, _ in fresh), 3),
        "start_s": round(statistics.median(start for start, _ in again), 3),
        "start_cpu_s": round(statistics.median(cpu for _, cpu in again), 3),
        "idle_pss_mib": round(memory / _MEBIBYTE, 1),
        "idle_cpu_ms_s": round(cpu, 2),
    }
    if chosen.install:
        size, blocks = _install()
        figures |= {"install_mb": round(size / 1e6, 1), "install_disk_mb": round(blocks / 1e6, 1)}
    imports = _slowest_imports(chosen.python, 12)
    if chosen.json:
        print(json.dumps({**figures, "imports_ms": dict(imports)}))
        return 0
    for name, figure in figures.items():
        print(f"{name:16} {figure:8}")
    print("slowest imports, own time in ms under -X importtime:")
    for name, milliseconds in imports:
        print(f"  {milliseconds:7.1f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
