"""`--dry-run` shows what a run would do on this very host, and does none of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scripts.k3s.entrance import Entrance
from tests.scripts.k3s.host import Host


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _heads(planned: list[str]) -> list[str]:
    """The steps of a plan, without where to."""
    steps = {
        r"install -m 0755 \S+/k3s ": "binary",
        r"install -m 0755 \S+/k3s-arm64 ": "binary for arm64",
        r"install\.sh server": "installer",
        r"install -m 0755 \S+/helm ": "helm",
        "Namespace nvidia-device-plugin": "plugin's namespace",
        "install nvidia-device-plugin": "plugin",
        "restart k3s": "restart",
        "RuntimeClass": "runtime class",
        "Namespace llm-d": "namespace",
        "Secret llm-d-hf-token": "secret",
        "install llm-d": "release",
        ">> .env": "endpoint",
    }
    return [step for line in planned for text, step in steps.items() if re.search(text, line)]


@pytest.mark.parametrize("user", ["0", "1000"])
def test_fresh_gpu_host(host: Host, user: str) -> None:
    """Everything, in order; sudo where this is not root, which nobody is asked to be."""
    host.with_gpu().answers(user_id=user, sudo_refuses="1")
    result = host.up("--dry-run", HF_TOKEN="hf_abcdefghijkl")
    assert result.status == 0, result.told
    assert _heads(result.planned) == [
        *("binary", "installer", "helm", "plugin's namespace", "plugin", "namespace", "secret", "release"),
        "endpoint",
    ]
    assert "hf_abcdefghijkl" not in result.out + result.told
    assert any(line.startswith("sudo ") for line in result.planned) == (user != "0")


def test_arm_host(host: Host) -> None:
    """What is built for arm64."""
    result = host.answers(machine="aarch64").up("--dry-run", "--mode", "sim")
    assert result.status == 0, result.told
    assert _heads(result.planned) == ["binary for arm64", "installer", "helm", "namespace", "release", "endpoint"]
    assert "helm-v4.2.4-linux-arm64.tar.gz" in result.out


def test_host_without_gpu(host: Host) -> None:
    """The block about the simulator, and its commands."""
    result = host.up("--dry-run")
    assert result.status == 0, result.told
    assert "its answers are random text" in result.told
    assert _heads(result.planned) == ["binary", "installer", "helm", "namespace", "release", "endpoint"]
    assert "profiles/sim.yaml" in result.out


def test_half_installed_host(host: Host) -> None:
    """Only what is missing: the cluster is asked."""
    host.with_k3s().with_gpu().has("helm").state(**{"namespace-llm-d": "k3s-up"})
    result = host.up("--dry-run")
    assert result.status == 0, result.told
    assert _heads(result.planned) == ["restart", "plugin's namespace", "plugin", "release", "endpoint"]


def test_finished_host(host: Host, cluster: Entrance) -> None:
    """Nothing."""
    assert host.with_gpu().up().status == 0
    result = host.up("--dry-run")
    assert (result.status, result.planned) == (0, [])


def test_cluster_that_only_root_may_ask(host: Host) -> None:
    """It says that it cannot look, and shows what an empty cluster takes."""
    host.with_k3s().has("helm").answers(user_id="1000", sudo_refuses="1")
    (host.world / "state" / "running").unlink()
    result = host.up("--dry-run", "--mode", "sim")
    assert result.status == 0, result.told
    assert "no cluster can be asked" in result.out


def test_unfit_host_gets_problems_and_plan(host: Host) -> None:
    """It ends as the run would, and shows what comes once the host is mended."""
    result = host.answers(processors="1").up("--dry-run", "--mode", "sim")
    assert result.status == 4
    assert "1 processors" in result.told
    assert _heads(result.planned)[-1] == "endpoint"


@pytest.mark.parametrize("arguments", [(), ("--mode", "sim"), ("--route", "gateway"), ("--mode", "cpu")], ids=str)
def test_nothing_is_changed(host: Host, arguments: tuple[str, ...]) -> None:
    """No file, no command that changes something, no lock, no log."""
    host.with_gpu()
    before = _files(host.root) | _files(host.checkout) | _files(host.world)
    result = host.up("--dry-run", *arguments)
    after = _files(host.root) | _files(host.checkout) | _files(host.world)
    assert result.status == 0, result.told
    assert result.changes == []
    assert after - before <= {"log"}


def test_plan_is_what_a_run_does(host: Host, cluster: Entrance) -> None:
    """The commands of Helm and kubectl come in the same order and with the same arguments."""
    plan = [
        line for line in host.with_gpu().up("--dry-run").planned if "helm" in line.split(" ")[0] or "kubectl" in line
    ]
    shown = [line[4:] for line in host.up().told.splitlines() if line.startswith("  $ ")]
    done = [line for line in shown if "helm" in line.split(" ")[0] or "kubectl" in line]
    assert [line.split(str(host.world))[0] for line in plan] == [line.split(str(host.world))[0] for line in done]
