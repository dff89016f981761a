"""What k3s-up refuses before it changes anything: wrong options, unfit hosts, a GPU that is not there."""

from __future__ import annotations

import subprocess

import pytest

from tests.house.tree import ROOT
from tests.scripts.k3s.entrance import Entrance
from tests.scripts.k3s.host import Host


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-such"], "unknown option --no-such"),
        (["--mode"], "--mode needs a value"),
        (["--mode", "tpu"], "--mode takes auto, gpu, cpu, sim; not tpu"),
        (["--route", "istio"], "--route takes standalone, gateway; not istio"),
        (["--namespace", "My_Space"], "--namespace takes a Kubernetes name"),
        (["--port", "http"], "--port takes a port"),
        (["--timeout", "long"], "--timeout takes a time such as 25m"),
        (["--set", "key"], "--set takes KEY=VALUE"),
        (["--values", "/no/such/file"], "cannot read /no/such/file"),
    ],
)
def test_wrong_option_is_named_and_nothing_is_run(host: Host, arguments: list[str], complaint: str) -> None:
    """Status 2, the option, and where the help is."""
    result = host.up(*arguments)
    assert (result.status, result.ran) == (2, [])
    assert complaint in result.told
    assert "--help" in result.told


def test_help_lists_options_and_exit_statuses(host: Host) -> None:
    """What it says is the head of the script."""
    result = host.up("--help")
    assert result.status == 0
    for text in ("--mode MODE", "--route ROUTE", "--dry-run", "--no-install-k3s", "3: no GPU", "7: the smoke test"):
        assert text.replace("7: ", "7: ") in result.out


@pytest.mark.parametrize("target", ["k3s-up", "k3s-down"])
def test_make_passes_its_arguments_on(target: str) -> None:
    """In K3S_ARGS, as with the other targets that take some."""
    command = ["make", target, "K3S_ARGS=--help"]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert reply.returncode == 0
    assert "--dry-run" in reply.stdout


def test_all_problems_are_told_at_once(host: Host) -> None:
    """A user mends them in one go."""
    host.lacks("curl", "systemctl").answers(user_id="1000", sudo_refuses="1", processors="1", disk="3000000")
    host.file("proc/meminfo", "MemTotal: 2000000 kB\n").file("sys/fs/cgroup/cgroup.controllers", "cpu\n").listens(6443)
    result = host.up("--mode", "sim")
    assert result.status == 4
    for text in (
        "missing: curl. Install them (Debian: apt-get install -y curl)",
        "systemd is not here",
        "k3s needs root, and sudo wants a password",
        "the memory cgroup is off",
        "1 processors; --mode sim needs 2",
        "2 GiB of memory; --mode sim needs 4",
        "2 GiB free for /var/lib; --mode sim needs 10",
        "port 6443 is taken, and not by k3s",
    ):
        assert f"  - {text}" in result.told, result.told
    assert result.changes == []


@pytest.mark.parametrize(
    ("mode", "complaint"),
    [("gpu", "--mode gpu needs 4"), ("cpu", "--mode cpu needs 4"), ("sim", "--mode sim needs 2")],
)
def test_size_follows_the_mode(host: Host, mode: str, complaint: str) -> None:
    """What is enough for the simulator is not for a model."""
    result = host.with_gpu().answers(processors="1").up("--mode", mode)
    assert result.status == 4
    assert complaint in result.told


def test_old_cgroups_are_refused(host: Host) -> None:
    """Kubernetes does without version 1."""
    (host.root / "sys/fs/cgroup/cgroup.controllers").unlink()
    result = host.up("--mode", "sim")
    assert result.status == 4
    assert "cgroup v2 is not in use" in result.told


def test_other_processors_are_refused(host: Host) -> None:
    """No image of llm-d runs there."""
    result = host.answers(machine="riscv64").up("--mode", "sim")
    assert result.status == 4
    assert "the processor is riscv64" in result.told


def test_processor_without_avx2_gets_no_model(host: Host, cluster: Entrance) -> None:
    """A build of vLLM ends with an illegal instruction there; the simulator does not mind."""
    host.file("proc/cpuinfo", "flags : fpu sse4_2 avx\n")
    assert "lacks AVX2" in host.up("--mode", "cpu").told
    assert host.up("--mode", "sim").status == 0


def test_selinux_without_its_policy_is_refused_where_nobody_can_add_it(host: Host) -> None:
    """k3s's installer adds it where there is a package manager that it knows."""
    host.file("sys/fs/selinux/enforce", "1")
    result = host.up("--mode", "sim")
    assert result.status == 4
    assert "SELinux is enforcing and the policy k3s-selinux is missing" in result.told
    told = host.has("dnf").up("--mode", "sim", "--dry-run").told
    assert "note: SELinux is enforcing; k3s's installer adds" in told


def test_firewall_that_would_part_the_pods_is_noted(host: Host, cluster: Entrance) -> None:
    """It is the user's to open; a run goes on."""
    result = host.state(firewalld="").up("--mode", "sim")
    assert result.status == 0, result.told
    assert "note: firewalld is active" in result.told


def test_taken_port_is_named_with_another_to_take(host: Host) -> None:
    """The whole command, with the options of this run."""
    result = host.listens(80).up("--mode", "sim", "--set", "a.b=c d")
    assert result.status == 4
    assert "port 80 is taken" in result.told
    assert 'make k3s-up K3S_ARGS="--mode sim --set a.b=c\\ d --port 8080"' in result.told


def test_agent_of_another_cluster_is_refused(host: Host) -> None:
    """Its server is where llm-d is deployed."""
    result = host.file("etc/systemd/system/k3s-agent.service", "").up("--mode", "sim")
    assert result.status == 4
    assert "this host is an agent of another k3s cluster" in result.told


def test_old_k3s_is_refused_and_not_upgraded(host: Host) -> None:
    """Upgrading somebody's cluster is not for this script to do."""
    result = host.with_k3s().answers(k3s_version="v1.28.5+k3s1").up("--mode", "sim")
    assert result.status == 4
    assert "k3s v1.28.5+k3s1 is here; the chart needs v1.30" in result.told


def test_mac_is_told_where_to_run_it(host: Host) -> None:
    """A Linux host, a virtual machine, or a cluster that is there."""
    result = host.answers(system="Darwin").up()
    assert (result.status, result.changes) == (4, [])
    assert "k3s needs Linux, and this is Darwin" in result.told
    assert "--no-install-k3s" in result.told


@pytest.mark.parametrize(
    ("prepare", "cause"),
    [
        (lambda host: host, "no NVIDIA GPU is here"),
        (lambda host: host.has("nvidia-smi"), "the NVIDIA Container Toolkit is not"),
        (
            lambda host: host.has("nvidia-smi").answers(
                gpus="NVIDIA-SMI has failed because it couldn't communicate with the driver.", nvidia_smi_status="9"
            ),
            "nvidia-smi fails: NVIDIA-SMI has failed",
        ),
        (
            lambda host: host.file("sys/bus/pci/devices/0/vendor", "0x10de\n").file(
                "sys/bus/pci/devices/0/class", "0x030200\n"
            ),
            "an NVIDIA card is here, its driver is not",
        ),
        (lambda host: host.with_gpu().file("etc/nv_tegra_release", "R36"), "this is a Jetson"),
    ],
    ids=["no card", "no toolkit", "driver broken", "no driver", "jetson"],
)
def test_insisting_on_a_gpu_fails_with_what_is_missing(
    host: Host, cluster: Entrance, prepare: object, cause: str
) -> None:
    """Status 3, the cause, how to mend it; `auto` says the same and simulates."""
    assert callable(prepare)
    prepare(host)
    insisted = host.up("--mode", "gpu")
    assert (insisted.status, insisted.changes) == (3, [])
    assert cause in insisted.told
    assert "To mend it:" in insisted.told
    automatic = host.up()
    assert automatic.status == 0, automatic.told
    assert f"No GPU will be used: {cause}" in automatic.told or cause in automatic.told
    assert "profiles/sim.yaml" in automatic.changes[-1]


def test_smallest_gpu_decides(host: Host, cluster: Entrance) -> None:
    """A worker may get any of them."""
    host.with_gpu().answers(gpus="NVIDIA A100, 81920, 550\nNVIDIA L4, 23034, 550\nNVIDIA A100, 81920, 550")
    result = host.up()
    assert result.status == 0, result.told
    assert "--set gpu.memoryMiB=23034 --set gpu.available=3" in result.changes[-1]


def test_gpu_that_shares_the_hosts_memory_has_no_number(host: Host, cluster: Entrance) -> None:
    """Its driver says "[N/A]"; the guard then warns rather than refuses."""
    result = host.with_gpu().answers(gpus="NVIDIA GB10, [N/A], 580").up()
    assert result.status == 0, result.told
    assert "--set gpu.memoryMiB=0 --set gpu.available=1" in result.changes[-1]


def test_cluster_without_gpu_is_told(host: Host) -> None:
    """With the cluster of the kubeconfig, its nodes are asked and not this host."""
    host.has("kubectl", "helm").state(running="").with_gpu()
    result = host.up("--no-install-k3s", "--mode", "gpu")
    assert result.status == 3
    assert "no node of this cluster offers nvidia.com/gpu" in result.told


def test_cluster_that_does_not_answer_is_told(host: Host) -> None:
    """Before anything else is looked at."""
    result = host.has("kubectl").up("--no-install-k3s")
    assert result.status == 5
    assert "does not answer" in result.told


def test_second_run_at_a_time_is_refused(host: Host) -> None:
    """The lock names who has it; one whose owner is gone is taken over."""
    lock = host.world / "lock"
    lock.mkdir()
    (lock / "pid").write_text("1")
    result = host.up("--mode", "sim")
    assert result.status == 4
    assert "another run is under way (process 1)" in result.told
    assert lock.exists()
