"""`python -m scripts.bench` from end to end, small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench.native import FLAGS, Tools, build, compiler
from scripts.bench.results import Results
from tests.house.tree import ROOT
from tests.support.process import clean_environment


def _bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench", "--work", str(folder), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.usefixtures("tools")
def test_bench_measures_the_mock_and_a_real_router(tmp_path: Path) -> None:
    """Counts are those of whole answers, CPU time is the router's alone, and nothing is left behind."""
    raw = tmp_path / "raw.json"
    tests = "conns-16,streams-5ms,policy-64"
    reply = _bench(
        tmp_path, "--only", "direct,router", "--tests", tests, "--rounds", "1", "--scale", "0.25", "--no-alone",
        *("--out", str(raw)),
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr
    results = Results.read(raw)
    assert results.faults == []
    for workload, gateways in results.values.items():
        assert list(gateways) == (["router"] if workload == "policy-64" else ["direct", "router"])
        for gateway in gateways:
            good = results.median(workload, gateway, "good")
            assert good == results.median(workload, gateway, "issued")
            assert good is not None
            assert good > 0
            assert results.errors(gateway, workload) == 0
    assert results.median("streams-5ms", "router", "good") == 38  # a quarter of 150
    assert results.all("conns-16", "direct", "cpu_us_per_request") == []
    assert results.all("conns-16", "router", "cpu_us_per_request")[0] > 0
    assert results.all("streams-5ms", "router", "cpu_us_per_chunk")[0] > 0
    assert "| conns-16 | router |" in reply.stdout
    assert not list(tmp_path.glob("run-*"))
    again = _bench(tmp_path, "--from", str(raw))
    assert again.stdout == reply.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tests", "nonsense"], "there is no test 'nonsense'"),
        (["--only", "nonsense"], "there is no gateway 'nonsense'"),
        (["--from", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_bench_names_what_it_does_not_know(tmp_path: Path, arguments: list[str], complaint: str, tools: Tools) -> None:
    """A wrong name measures nothing and is told."""
    assert tools.load.exists()
    reply = _bench(tmp_path, *arguments)
    assert reply.returncode != 0
    assert complaint in reply.stderr
    assert not list(tmp_path.glob("run-*"))


def test_programs_compile_without_a_warning(tools: Tools) -> None:
    """What this compiler warns of is mended."""
    for program in (tools.mock, tools.load):
        source = ROOT / "scripts/bench" / f"{program.name}.c"
        command = [str(compiler()), *FLAGS, "-Werror", "-o", str(program.with_name("unused")), str(source), "-lm"]
        reply = subprocess.run(command, capture_output=True, text=True, check=False)
        assert reply.returncode == 0, reply.stderr


def test_programs_are_built_once(tools: Tools) -> None:
    """The same sources are not compiled again."""
    before = tools.load.stat().st_mtime_ns
    assert build(tools.load.parent) == tools
    assert tools.load.stat().st_mtime_ns == before
