"""`python -m scripts.bench`, which is what `make bench` and `make bench-peers` run."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from scripts.bench import peers
from scripts.bench.bars import BARS, judge
from scripts.bench.gateways import Absent, Gateway, NotReady, direct, start
from scripts.bench.measure import Bench, MeasureError
from scripts.bench.meter import memory_kind
from scripts.bench.native import NoCompiler, build
from scripts.bench.ours import ROOT, VARIANTS, prepare
from scripts.bench.processes import (
    Cores,
    Running,
    choose_cores,
    clean_environment,
    free_memory,
    free_port,
    on_core,
    raise_file_limit,
)
from scripts.bench.profile import NoProfiler, find_profiler, record, shares
from scripts.bench.report import document, put_into
from scripts.bench.results import INSTALLED, Results
from scripts.bench.rounds import run_alone, run_rounds
from scripts.bench.size import router_only_mb, site_packages_mb
from scripts.bench.workloads import WORKLOADS, Workload
from scripts.dev.valkey import NoValkey, embedded

_PAGE = ROOT / "docs/benchmarks/index.md"
_NEEDED_MEMORY = 6 << 30
_STREAM_FILES = 4500


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    add = parser.add_argument
    add("--peers", action="store_true", help="measure vllm-router and LiteLLM too; installed first where missing")
    add("--peers-dir", type=Path, default=ROOT / ".bench/peers", help="where their environments are")
    add("--tests", default="", help=f"comma list of workloads, all if left out: {', '.join(WORKLOADS)}")
    add("--only", default="", help="comma list of gateways, all if left out")
    add("--rounds", type=int, default=0, help="rounds; 3, or 5 with --peers, if left out")
    add("--scale", type=float, default=1.0, help="what the workloads' seconds and requests are multiplied with")
    add("--no-alone", action="store_true", help="leave out start time, memory and size")
    add("--out", type=Path, help="write all raw values to this JSON file")
    add("--from", dest="source", type=Path, help="measure nothing: take the raw values of an earlier run")
    add("--docs", action="store_true", help=f"write the figures into {_PAGE.relative_to(ROOT)}")
    add("--check", action="store_true", help="fail where a bar is missed")
    add("--profile", action="store_true", help="measure nothing: show where the router's time goes (needs py-spy)")
    add("--work", type=Path, default=ROOT / ".bench", help="folder for what is built and written on the way")
    return parser


def _chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise SystemExit(f"bench: there is no {what} {name!r}; there are {', '.join(known)}")
    return names


class Session:
    """What one run needs, opened and closed in order.

    Args:
        options: The command line.
        stack: Closes what was opened.
    """

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self.options = options
        self.results = Results()
        files = raise_file_limit()
        self.cores: Cores = choose_cores()
        options.work.mkdir(parents=True, exist_ok=True)
        tools = build(options.work / "bin")
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.work)).resolve()
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        stack.enter_context(on_core(self.cores.load))  # what drives the gateways stays off their core
        self.mock_port = free_port()
        mock = Running((str(tools.mock), str(self.mock_port)), self.folder / "mock.log", core=self.cores.load)
        stack.callback(mock.stop)
        self.bench = Bench(tools, self.folder, self.mock_port, self.cores.load, options.scale)
        self._await_mock(mock)
        self.redis_url = self._start_valkey(stack)
        names = _chosen(options.tests, list(WORKLOADS), "test") or list(WORKLOADS)
        self.workloads: list[Workload] = [WORKLOADS[name] for name in names]
        if files < _STREAM_FILES:
            self.workloads = [workload for workload in self.workloads if workload.connections < 1000]
            self.results.left_out.append(f"burst-2000: only {files} files may be open here (ulimit -n)")

    def _await_mock(self, mock: Running) -> None:
        until = time.monotonic() + 10
        while True:
            try:
                self.bench.mock_stats()
            except OSError:
                if time.monotonic() > until or not mock.alive:
                    raise MeasureError(f"the mock upstream does not answer: {mock.last_words()}") from None
                time.sleep(0.02)
            else:
                return

    def _start_valkey(self, stack: ExitStack) -> str:
        url = f"redis://127.0.0.1:{free_port()}/0"
        try:
            stand = embedded(url, self.folder)
        except NoValkey:
            self.results.left_out.append("Valkey: none for this platform, so the router's cache is off")
            return url
        valkey = Running(stand.command, self.folder / "valkey.log", core=self.cores.load)
        stack.callback(valkey.stop)
        return stand.url

    def gateways(self) -> list[Gateway]:
        """Return what is to be measured; what cannot be is left out with a line."""
        known = ["direct", "nginx", *(variant.name for variant in VARIANTS), *(peer.name for peer in peers.PEERS)]
        names = _chosen(self.options.only, known, "gateway") or known
        found: list[Gateway | Absent] = []
        if "direct" in names:
            found.append(direct(self.mock_port))
        if "nginx" in names:
            found.append(peers.nginx(self.folder / "nginx", self.mock_port))
        for peer in peers.PEERS:
            if self.options.peers and peer.name in names:
                peers.install(peer, self.options.peers_dir)
                place = self.folder / peer.name
                found.append(peers.peer_gateway(peer, self.options.peers_dir, place, self.mock_port))
        for variant in VARIANTS:
            if variant.name not in names:
                continue
            free = free_memory()
            if variant.registry.keys > 100_000 and free is not None and free < _NEEDED_MEMORY:
                found.append(Absent(variant.name, "less than 6 GiB of memory are free"))
            else:
                found.append(prepare(variant, self.folder / variant.name, self.mock_port, self.redis_url))
        absent = [one for one in found if isinstance(one, Absent)]
        self.results.left_out += [f"{one.name}: {one.reason}" for one in absent]
        for one in absent:
            print(f"bench: {one.name} is left out: {one.reason}", file=sys.stderr)
        return [one for one in found if isinstance(one, Gateway)]

    def measure(self) -> Results:
        """Run everything that was asked for."""
        gateways = self.gateways()
        rounds = self.options.rounds or (5 if self.options.peers else 3)
        self.results.gateways = {one.name: {"version": one.version, "remark": one.remark} for one in gateways}
        self.results.conditions = {
            **_conditions(),
            "cores": self.cores.remark,
            "memory": memory_kind(),
            "rounds": rounds,
        }
        logs = self.folder / "logs"
        if not self.options.no_alone:
            run_alone(self.bench, gateways, self.cores, logs, self.results)
            self.results.add(INSTALLED, "router", {"mb": router_only_mb(ROOT)})
            for peer in peers.PEERS:
                if any(one.name == peer.name for one in gateways):
                    size = site_packages_mb(self.options.peers_dir / peer.name)
                    self.results.add(INSTALLED, peer.name, {"mb": size})
        run_rounds(self.bench, gateways, self.workloads, rounds, self.cores, logs, self.results)
        return self.results

    def profile(self, seconds: int = 8) -> str:
        """Return where the router's time goes with 64 connections."""
        program = find_profiler()
        gateway = prepare(VARIANTS[0], self.folder / "router", self.mock_port, self.redis_url)
        assert isinstance(gateway, Gateway)
        running, _ = start(gateway, self.folder / "logs", self.cores.gateway)
        output = self.folder / "stacks.txt"
        load = Workload("profiled", "under the profiler", 64, seconds + 3.0)
        try:
            profiler = record(program, running.pid, seconds, output)
            self.bench.measure(gateway, running, load)
            _, problem = profiler.communicate(timeout=60)
        finally:
            running.stop()
        if profiler.returncode != 0:
            raise NoProfiler(f"py-spy failed: {problem.strip()}")
        return shares(output.read_text(encoding="utf-8").splitlines())


def _conditions() -> dict[str, str | int]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        reply = subprocess.run(command, env=clean_environment({}), capture_output=True, text=True, check=False)
        return reply.stdout.strip() or platform.machine()
    return platform.machine()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        if options.source is not None:
            results = Results.read(options.source)
        else:
            with ExitStack() as stack:
                session = Session(options, stack)
                if options.profile:
                    print(session.profile())
                    return 0
                results = session.measure()
    except (NoCompiler, NoProfiler, NotReady, MeasureError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.out is not None:
        results.write(options.out)
    text = document(results)
    print(text)
    if options.docs:
        put_into(_PAGE, text)
    return 1 if options.check and any(judge(bar, results).verdict == "missed" for bar in BARS) else 0


if __name__ == "__main__":
    sys.exit(main())
