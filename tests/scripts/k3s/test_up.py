"""`make k3s-up` on hosts of all kinds: what it runs, in which order, and what it does the second time."""

from __future__ import annotations

import pytest

from tests.scripts.k3s.entrance import Entrance
from tests.scripts.k3s.host import Host


def test_fresh_gpu_host_gets_everything_in_order(host: Host, cluster: Entrance) -> None:
    """k3s, Helm, the device plugin, the namespace, the release, the smoke test, the endpoint."""
    result = host.with_gpu().up()

    assert result.status == 0, result.told
    result.order(
        "nvidia-smi --query-gpu=name,memory.total,driver_version",
        "k3s/releases/download/v1.36.4%2Bk3s1/k3s",
        "k3s/v1.36.4%2Bk3s1/install.sh",
        "k3s-installer server --disable=traefik --write-kubeconfig-mode=0640 --secrets-encryption",
        "get nodes",
        "get deployment coredns",
        "https://get.helm.sh/helm-v4.2.4-linux-amd64.tar.gz",
        "# applied Namespace nvidia-device-plugin",
        "pull nvidia-device-plugin --repo https://nvidia.github.io/k8s-device-plugin --version 0.19.3",
        "upgrade --install nvidia-device-plugin",
        "allocatable",
        "# applied Namespace llm-d",
        "upgrade --install llm-d worker_cluster/chart",
    )
    (release,) = [line for line in result.ran if "upgrade --install llm-d " in line]
    for part in (
        "--values worker_cluster/profiles/gpu.yaml",
        "--set gpu.memoryMiB=23034",
        "--set gpu.available=1",
        "--set service.type=LoadBalancer",
        "--wait --timeout 25m",
    ):
        assert part in release
    assert "--set gfd.enabled=true" in next(line for line in result.ran if "--install nvidia-device-plugin" in line)
    assert not any("nobody answers" in line for line in result.ran)
    assert cluster.kinds == ["models", "chat", "stream", "bad model"]
    assert result.out == f"export LLMD_ENDPOINT=http://127.0.0.1:{cluster.server_port}\n"
    assert host.dotenv == f"LLMD_ENDPOINT=http://127.0.0.1:{cluster.server_port}\n"


@pytest.mark.parametrize("mode", ["auto", "cpu", "sim"])
def test_second_run_changes_nothing(host: Host, cluster: Entrance, mode: str) -> None:
    """All is there, so that it only looks and asks."""
    first = (host.with_gpu() if mode == "auto" else host).up("--mode", mode)
    assert first.changes
    second = host.up("--mode", mode)

    assert (first.status, second.status) == (0, 0), first.told + second.told
    assert second.changes == []
    assert second.out == first.out
    assert "the release is up to date" in second.told
    assert cluster.kinds == ["models", "chat", "stream", "bad model"] * 2


def test_changed_value_deploys_again(host: Host, cluster: Entrance) -> None:
    """Another value is another release; nothing else is done again."""
    host.up("--mode", "sim")
    result = host.up("--mode", "sim", "--set", "limits.maxModelLen=4096")
    assert result.status == 0, result.told
    (change,) = result.changes
    assert "upgrade --install llm-d" in change
    assert "--set limits.maxModelLen=4096" in change


def test_host_without_gpu_says_once_that_it_simulates(host: Host, cluster: Entrance) -> None:
    """One block of text: why, what runs instead, how to have the GPU."""
    result = host.up()
    assert result.status == 0, result.told
    assert result.told.count("No GPU will be used: no NVIDIA GPU is here") == 1
    assert "its answers are random text" in result.told
    assert "--mode gpu insists" in result.told
    assert "--values worker_cluster/profiles/sim.yaml" in result.changes[-1]
    assert not any("nvidia-device-plugin" in line for line in result.ran)


def test_arm_host_gets_what_is_built_for_it(host: Host, cluster: Entrance) -> None:
    """The binary of k3s and Helm for arm64, the same order."""
    result = host.answers(machine="aarch64").up("--mode", "sim")
    assert result.status == 0, result.told
    result.order("/k3s-arm64", "k3s-installer", "helm-v4.2.4-linux-arm64.tar.gz", "upgrade --install llm-d")
    assert (host.root / "usr/local/bin/k3s").read_text() == (host.world / "downloads/k3s-arm64").read_text()


def test_half_installed_host_gets_only_the_rest(host: Host, cluster: Entrance) -> None:
    """k3s is there and stopped, the namespace too: it is started, and the release is added."""
    host.with_k3s().has("helm").state(namespace_llm_d="")
    (host.world / "state" / "running").unlink()
    result = host.up("--mode", "sim")
    assert result.status == 0, result.told
    first, second = result.changes
    assert first == "systemctl start k3s"
    assert "upgrade --install llm-d" in second


def test_k3s_of_somebody_else_is_left_as_it_is(host: Host, cluster: Entrance) -> None:
    """No second installation, and no mark that it is ours."""
    result = host.with_k3s().has("helm").up("--mode", "sim")
    assert result.status == 0, result.told
    assert [line.split(" ")[0] for line in result.changes] == ["k3s", "helm"]
    assert not (host.root / "etc/rancher/k3s/.installed-by-k3s-up").exists()


def test_interrupted_run_goes_on_where_it_stopped(host: Host, cluster: Entrance) -> None:
    """Ctrl-C while k3s is installed; the next run completes it and knows that it is ours."""
    first = host.answers(install_is_interrupted="").up("--mode", "sim")
    assert first.status == 130
    assert "run it again" in first.told
    assert not (host.world / "lock").exists()
    second = host.up("--mode", "sim")
    assert second.status == 0, second.told
    second.order("k3s-installer", "upgrade --install llm-d")
    assert (host.root / "etc/rancher/k3s/.installed-by-k3s-up").exists()


def test_interrupted_wait_takes_helm_along(host: Host, cluster: Entrance) -> None:
    """Nothing goes on behind the user's back, and the next run deploys again."""
    host.with_k3s().has("helm").answers(helm_hangs_llm_d="", wait_is_interrupted="")
    first = host.up("--mode", "sim")
    assert first.status == 130
    assert '"status":"failed"' in (host.world / "state" / "release-llm-d").read_text()
    second = host.forget("helm_hangs_llm_d").up("--mode", "sim")
    assert second.status == 0, second.told


@pytest.mark.parametrize(
    ("pending", "settled"),
    [
        ("pending-install", "uninstall llm-d --namespace llm-d --wait"),
        ("pending-upgrade", "rollback llm-d --namespace llm-d"),
    ],
)
def test_release_of_an_interrupted_run_is_settled_first(
    host: Host, cluster: Entrance, pending: str, settled: str
) -> None:
    """Helm refuses a release whose last operation was cut off."""
    host.with_k3s().has("helm").state(**{"release-llm-d": f'{{"info":{{"status":"{pending}"}}}}'})
    result = host.up("--mode", "sim")
    assert result.status == 0, result.told
    result.order(settled, "upgrade --install llm-d")


def test_toolkit_that_came_after_k3s_takes_one_restart(host: Host, cluster: Entrance) -> None:
    """k3s finds NVIDIA's runtime when it starts, and never again once it knows it."""
    host.with_k3s().with_gpu().has("helm")
    result = host.up()
    assert result.status == 0, result.told
    assert [line for line in result.changes if line.startswith("systemctl")] == ["systemctl restart k3s"]
    result.order("systemctl restart k3s", "get nodes", "--install nvidia-device-plugin", "--install llm-d")
    assert host.up().changes == []


def test_missing_runtime_class_is_made(host: Host, cluster: Entrance) -> None:
    """A k3s without RuntimeClasses gets the one that the workers name."""
    result = host.with_gpu().answers(no_runtime_class="").up()
    assert result.status == 0, result.told
    assert "# applied RuntimeClass nvidia" in result.ran


def test_gpu_that_is_offered_already_needs_no_plugin(host: Host, cluster: Entrance) -> None:
    """Under NVIDIA's operator nothing of k3s-up is added."""
    result = host.with_k3s().with_gpu().has("helm").state(gpus="2").up()
    assert result.status == 0, result.told
    assert not any("install nvidia-device-plugin" in line for line in result.ran)


@pytest.mark.parametrize("version", ["v3.14.0", "v3.20.2", "v4.0.1", "v4.3.1"])
def test_helm_that_is_there_is_used(host: Host, cluster: Entrance, version: str) -> None:
    """Of Helm 3.14 to 4, with the same arguments: none of them was renamed in Helm 4."""
    result = host.with_k3s().has("helm").answers(helm_version=version).up("--mode", "sim")
    assert result.status == 0, result.told
    assert not any("get.helm.sh" in line for line in result.ran)
    assert not any(flag in " ".join(result.ran) for flag in ("--atomic", "--force ", "--rollback-on-failure"))


def test_helm_that_is_too_old_is_left_aside(host: Host, cluster: Entrance) -> None:
    """The pinned one goes into the checkout, not in the place of the old one."""
    result = host.with_k3s().has("helm").answers(helm_version="v3.9.4").up("--mode", "sim")
    assert result.status == 0, result.told
    assert "the one here is v3.9.4" in result.told
    assert (host.checkout / ".dev/helm-v4.2.4/helm").exists()


def test_gateway_route_brings_its_crds_and_gateway(host: Host, cluster: Entrance) -> None:
    """The CRDs first, then agentgateway, then the release behind it."""
    result = host.up("--mode", "sim", "--route", "gateway")
    assert result.status == 0, result.told
    result.order(
        "gateway-api/releases/download/v1.5.1/standard-install.yaml",
        "apply --server-side -f",
        "gateway-api-inference-extension/releases/download/v1.6.0/v1-manifests.yaml",
        "llm-d-router/releases/download/v0.10.0/manifests.yaml",
        "--install agentgateway-crds oci://cr.agentgateway.dev/charts/agentgateway-crds --version v1.4.1",
        "--install agentgateway oci://cr.agentgateway.dev/charts/agentgateway --version v1.4.1",
        f"--set router.mode=gateway --set gateway.listenerPort={cluster.server_port}",
    )
    assert host.up("--mode", "sim", "--route", "gateway").changes == []


@pytest.mark.parametrize("there", ["v1.6.1", "v1.5.1", "main-dev"])
def test_crds_are_never_taken_back(host: Host, cluster: Entrance, there: str) -> None:
    """A newer version stays, and one that tells no version."""
    host.state(**{"crd-gateways.gateway.networking.k8s.io": there})
    result = host.up("--mode", "sim", "--route", "gateway")
    assert result.status == 0, result.told
    assert not any("standard-install" in line for line in result.ran)


def test_older_crds_are_brought_up(host: Host, cluster: Entrance) -> None:
    """Of the standard channel; those of the experimental one are left alone."""
    host.state(**{"crd-gateways.gateway.networking.k8s.io": "v1.4.0"})
    assert any("standard-install" in line for line in host.up("--mode", "sim", "--route", "gateway").ran)
    host.state(**{"crd-gateways.gateway.networking.k8s.io": "v1.4.0"}).answers(crd_channel="experimental")
    result = host.up("--mode", "sim", "--route", "gateway")
    assert not any("standard-install" in line for line in result.ran)


def test_cluster_of_the_kubeconfig_gets_llm_d_alone(host: Host, cluster: Entrance) -> None:
    """No k3s, no GPU support, an entrance on a port of the nodes."""
    host.has("kubectl", "helm").state(running="", gpus="1", runtimeclass="").answers(
        gpu_memory="81559", service_type="NodePort", node_port=str(cluster.server_port)
    )
    result = host.up("--no-install-k3s")
    assert result.status == 0, result.told
    assert [line.split(" ")[0] for line in result.changes] == ["kubectl", "helm"]
    assert "--set gpu.memoryMiB=81559" in result.changes[-1]
    assert "--set service.type=NodePort" in result.changes[-1]
    assert host.dotenv == f"LLMD_ENDPOINT=http://127.0.0.1:{cluster.server_port}\n"


def test_sudo_runs_what_needs_root(host: Host, cluster: Entrance) -> None:
    """A user with sudo gets the same result."""
    result = host.has("helm").answers(user_id="1000").up("--mode", "sim")
    assert result.status == 0, result.told
    assert "  $ sudo --preserve-env=HTTP_PROXY" in result.told
    assert not any("$ sudo curl" in line for line in result.told.splitlines())


def test_dotenv_keeps_all_other_lines(host: Host, cluster: Entrance) -> None:
    """The endpoint is replaced where it stands; keys, comments and the mode of the file stay."""
    place = host.checkout / ".env"
    place.write_text("# mine\nEXTERNAL_OPENAI_KEY=sk-1\nLLMD_ENDPOINT=http://old\nROUTER_PORT=8001\n")
    place.chmod(0o640)
    host.up("--mode", "sim")
    lines = host.dotenv.splitlines()
    assert lines[:3] == ["# mine", "EXTERNAL_OPENAI_KEY=sk-1", "ROUTER_PORT=8001"]
    assert lines[3:] == [f"LLMD_ENDPOINT=http://127.0.0.1:{cluster.server_port}"]
    assert place.stat().st_mode & 0o777 == 0o640


def test_new_dotenv_is_for_its_owner_alone(host: Host, cluster: Entrance) -> None:
    """Keys will be written into it."""
    host.up("--mode", "sim")
    assert (host.checkout / ".env").stat().st_mode & 0o777 == 0o600


def test_token_becomes_a_secret_and_is_shown_nowhere(host: Host, cluster: Entrance) -> None:
    """Not in an argument, not in what is said, not in the log; the second run leaves the Secret alone."""
    token = "hf_abcdefghijklmnopqrstuvwxyz"
    result = host.up("--mode", "sim", HF_TOKEN=token, LLMD_API_KEY="key-of-the-entrance")
    assert result.status == 0, result.told
    assert "# applied Secret llm-d-hf-token" in result.ran
    everything = result.out + result.told + host.log + "\n".join(result.ran)
    assert token not in everything
    assert "key-of-the-entrance" not in everything
    assert {bearer for _, bearer in cluster.seen} == {"Bearer key-of-the-entrance"}
    assert host.up("--mode", "sim", HF_TOKEN=token).changes == []
    assert "# applied Secret llm-d-hf-token" in host.up("--mode", "sim", HF_TOKEN="hf_another0123").ran
