"""`make k3s-down`: it takes away what k3s-up made, and nothing else."""

from __future__ import annotations

import pytest

from tests.scripts.k3s.entrance import Entrance
from tests.scripts.k3s.host import Host


@pytest.fixture
def running(host: Host, cluster: Entrance) -> Host:
    """A host on which k3s-up has done everything, with a GPU and a token."""
    result = host.with_gpu().up(HF_TOKEN="hf_abcdefghijkl")
    assert result.status == 0, result.told
    return host


def test_everything_goes_but_the_models_and_k3s(running: Host) -> None:
    """The release and the plugin first; the namespace stays for the volume, without the token."""
    result = running.down()
    assert result.status == 0, result.told
    result.order(
        "uninstall llm-d --namespace llm-d --wait",
        "uninstall nvidia-device-plugin",
        "delete namespace nvidia-device-plugin",
        "delete secret llm-d-hf-token",
    )
    assert "the models stay in persistentvolumeclaim/llm-d-models; --purge-models deletes them" in result.told
    assert not any("delete namespace llm-d" in line or "k3s-uninstall" in line for line in result.ran)
    assert running.dotenv == ""
    assert running.down().changes == []


def test_models_go_when_asked(running: Host) -> None:
    """The claim, then the namespace."""
    result = running.down("--purge-models")
    assert result.status == 0, result.told
    result.order("uninstall llm-d", "delete persistentvolumeclaim/llm-d-models", "delete namespace llm-d")


def test_k3s_goes_when_k3s_up_installed_it(running: Host) -> None:
    """By k3s's own uninstaller, last."""
    result = running.down("--purge")
    assert result.status == 0, result.told
    assert result.changes[-1].startswith("k3s-uninstall.sh")
    assert not (running.root / "etc/rancher/k3s").exists()
    assert running.down("--purge").changes == []


def test_k3s_of_somebody_else_stays(host: Host, cluster: Entrance) -> None:
    """Even when asked."""
    assert host.with_k3s().has("helm").up("--mode", "sim").status == 0
    result = host.down("--purge", "--purge-models")
    assert result.status == 0, result.told
    assert "k3s was not installed by k3s-up; it stays" in result.told
    assert (host.root / "usr/local/bin/k3s").exists()


def test_namespace_of_somebody_else_stays(host: Host, cluster: Entrance) -> None:
    """It was there before, with who knows what in it."""
    host.with_k3s().has("helm").state(**{"namespace-llm-d": ""})
    assert host.up("--mode", "sim").status == 0
    result = host.down("--purge-models")
    assert result.status == 0, result.told
    assert "the namespace llm-d was not made by k3s-up; it stays" in result.told


def test_plugin_of_somebody_else_stays(host: Host, cluster: Entrance) -> None:
    """Its release has another description."""
    host.with_k3s().with_gpu().has("helm")
    host.state(
        gpus="1", **{"release-nvidia-device-plugin": '{"info":{"status":"deployed","description":"Install complete"}}'}
    )
    assert host.up().status == 0
    result = host.down()
    assert not any("uninstall nvidia-device-plugin" in line for line in result.ran)


def test_bare_host_has_nothing_to_remove(host: Host) -> None:
    """It says so and ends well."""
    result = host.down("--purge", "--purge-models")
    assert (result.status, result.changes) == (0, [])
    assert "there is nothing to remove" in result.told


def test_installation_that_was_cut_off_can_be_purged(host: Host, cluster: Entrance) -> None:
    """There is no uninstaller yet, and no more than a binary."""
    assert host.answers(install_is_interrupted="").up("--mode", "sim").status == 130
    result = host.down("--purge")
    assert result.status == 0, result.told
    assert not (host.root / "usr/local/bin/k3s").exists()
    assert not (host.root / "etc/rancher/k3s").exists()


def test_endpoint_of_another_cluster_stays(running: Host) -> None:
    """Somebody has set it since; other lines stay in any case."""
    (running.checkout / ".env").write_text("ROUTER_PORT=8001\nLLMD_ENDPOINT=http://other\n")
    result = running.down()
    assert "LLMD_ENDPOINT in .env is not of k3s-up; it stays" in result.told
    assert running.dotenv == "ROUTER_PORT=8001\nLLMD_ENDPOINT=http://other\n"


def test_endpoint_goes_and_other_lines_stay(running: Host) -> None:
    """Keys are in there."""
    (running.checkout / ".env").write_text(f"A=1\n{running.dotenv}B=2\n")
    running.down()
    assert running.dotenv == "A=1\nB=2\n"


def test_dry_run_shows_and_does_nothing(running: Host) -> None:
    """The same commands, none of them run."""
    result = running.down("--dry-run", "--purge", "--purge-models")
    assert (result.status, result.changes) == (0, [])
    assert any("uninstall llm-d" in line for line in result.planned)
    assert any("k3s-uninstall.sh" in line for line in result.planned)
    assert "LLMD_ENDPOINT" in running.dotenv
    assert running.down("--purge", "--purge-models").changes


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--all"], "unknown option --all"),
        (["--namespace"], "needs a value"),
        (["--namespace", "A_B"], "Kubernetes name"),
    ],
)
def test_wrong_option_is_named(host: Host, arguments: list[str], complaint: str) -> None:
    """Status 2, and nothing is run."""
    result = host.down(*arguments)
    assert (result.status, result.ran) == (2, [])
    assert complaint in result.told
