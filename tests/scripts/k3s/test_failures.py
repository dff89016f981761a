"""What k3s-up says when something fails: the cause, and the command that mends it."""

from __future__ import annotations

import pytest

from tests.scripts.k3s.entrance import Entrance
from tests.scripts.k3s.host import Host, Outcome

READY = "llm-d-epp-1|epp|true|0||||ghcr.io/epp|\n"
KV_CACHE = (
    "ValueError: To serve at least one request with the models's max seq len (131072), (16.0 GiB KV cache is needed,"
    " which is larger than the available KV cache memory (3.14 GiB). Based on the available memory, the estimated"
    " maximum model length is 25710. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when"
    " initializing the engine.\n"
)


def worker(
    reason: str = "CrashLoopBackOff", restarts: int = 3, code: str = "1", why: str = "Error", message: str = ""
) -> str:
    """The lines of a worker that is not ready, beside an endpoint picker that is."""
    return f'{READY}llm-d-decode-1|engine|false|{restarts}|{reason}|{code}|{why}|docker.io/vllm:v1|"{message}"\n'


def deploy(host: Host, *arguments: str, **answers: str) -> Outcome:
    """Run k3s-up on a host with all but a release that can come up."""
    host.with_k3s().with_gpu().has("helm").state(gpus="1")
    (host.root / "var/lib/rancher/k3s/agent/etc/containerd/config.toml").write_text("nvidia")
    return host.answers(**answers).up(*arguments)


def test_context_that_does_not_fit_is_told_with_the_one_that_does(host: Host) -> None:
    """A crash loop for want of cache ends the wait at once and names vLLM's own estimate, in whole blocks."""
    result = deploy(
        host,
        *("--mode", "gpu", "--set", "limits.maxModelLen=131072", "--set", "limits.guard=off", "--timeout", "40m"),
        helm_hangs_llm_d="",
        log_llm_d_decode_1=KV_CACHE,
        containers=worker(),
    )
    assert result.status == 6
    assert "ends the wait: llm-d-decode-1/engine: CrashLoopBackOff" in result.told
    assert (
        "CAUSE: the context is longer than the GPU's memory has room for; vLLM reckons that 25710 tokens fit"
        in result.told
    )
    expected = "--mode gpu --set limits.guard=off --timeout 40m --set limits.maxModelLen=25696"
    assert f'mend it: make k3s-up K3S_ARGS="{expected}"' in result.told
    assert "last 30 lines of engine in llm-d-decode-1:" in result.told
    assert "    ValueError: To serve at least one request" in result.told
    assert result.told.count("CAUSE:") == 1


def test_mending_command_works(host: Host, cluster: Entrance) -> None:
    """After the failure above, the command that it named brings llm-d up."""
    first = deploy(
        host,
        *("--set", "limits.maxModelLen=131072"),
        helm_hangs_llm_d="",
        log_llm_d_decode_1=KV_CACHE,
        containers=worker(),
    )
    command = first.told.split('K3S_ARGS="')[1].split('"')[0]
    host.forget("helm_hangs_llm_d", "containers")
    # A port that the test has added stands in the command already.
    host.port = None
    result = host.up(*command.split(" "))
    assert result.status == 0, result.told
    assert "--set limits.maxModelLen=25696" in result.changes[-1]
    assert "131072" not in result.changes[-1]


@pytest.mark.parametrize(
    ("text", "cause", "mend"),
    [
        (KV_CACHE.replace("25710", "25,710"), "25710 tokens fit", "limits.maxModelLen=25696"),
        (KV_CACHE.replace("25710", "432"), "432 tokens fit", "takes a smaller model"),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
            "the model is too large for this GPU",
            "--set model.id=Qwen/Qwen3-0.6B",
        ),
        (
            "ValueError: Free memory on device cuda:0 (12.5/22.05 GiB) on startup is less than desired GPU memory ut",
            "only 12.5 of the GPU's 22.05 GiB are free",
            "--set limits.gpuMemoryUtilization=0.53",
        ),
        (
            "ValueError: Free memory on device (2.6/121.63 GiB) on startup is less than desired",
            "only 2.6 of the GPU's 121.63 GiB are free",
            "end that process, then run this again",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB.",
            "ran out of GPU memory",
            "--set limits.gpuMemoryUtilization=0.85",
        ),
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
            "does not give out the model",
            "HF_TOKEN=… make k3s-up",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full", "modelCache.size=200Gi"),
        (
            "api_server.py: error: unrecognized arguments: --max-len 5",
            "does not know the argument --max-len 5",
            "engine.extraArgs",
        ),
        ("RuntimeError: something new", "ends with exit code 1 (Error)", "RuntimeError: something new"),
    ],
)
def test_crash_is_told_by_what_the_engine_said(host: Host, text: str, cause: str, mend: str) -> None:
    """Each of vLLM's own complaints has a cause and a way out; an unknown one is shown."""
    result = deploy(
        host, helm_fails_llm_d="Error: context deadline exceeded", log_llm_d_decode_1=text, containers=worker()
    )
    assert result.status == 6
    assert cause in result.told
    assert mend in result.told


@pytest.mark.parametrize(
    ("mode", "mend"), [("gpu", "decode.resources.limits.memory=64Gi"), ("cpu", "decode.resources.limits.memory=16Gi")]
)
def test_kill_for_host_memory_is_not_called_the_gpus(host: Host, mode: str, mend: str) -> None:
    """Exit code 137 is the kernel's doing; where the log names CUDA, the GPU was it all the same."""
    row = worker(code="137", why="OOMKilled")
    result = deploy(
        host, "--mode", mode, helm_fails_llm_d="Error: timed out", log_llm_d_decode_1="Loading", containers=row
    )
    assert "killed for the host's memory (exit code 137, OOMKilled)" in result.told
    assert mend in result.told
    cuda = deploy(host.lacks("helm", "nvidia-smi", "nvidia-container-runtime"), log_llm_d_decode_1="CUDA out of memory")
    assert "ran out of GPU memory" in cuda.told


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("no match for platform in manifest: not found", "it has no build for x86_64"),
        ("429 Too Many Requests - toomanyrequests", "--set imageRegistry=REGISTRY"),
        ("401 Unauthorized", "--set 'imagePullSecrets\\[0\\].name=SECRET'"),
        ("docker.io/vllm:v1: not found", "there is no such tag"),
        ("dial tcp: lookup docker.io: i/o timeout", "curl -I https://docker.io/v2/"),
    ],
)
def test_image_that_does_not_come_ends_the_wait(host: Host, message: str, mend: str) -> None:
    """After a minute of it, not after 25."""
    row = worker("ImagePullBackOff", 0, "", "", message)
    result = deploy(host, helm_hangs_llm_d="", containers=row)
    assert result.status == 6
    assert "ends the wait: llm-d-decode-1/engine: the image does not come" in result.told
    assert f'the image docker.io/vllm:v1 does not come: "{message}"' in result.told
    assert mend.replace("'", "").replace("\\", "") in result.told.replace("\\", "")


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", "another pod holds the GPU"),
        ("0/1 nodes are available: 1 Insufficient memory.", "decode.resources.requests.memory=4Gi"),
        ("0/1 nodes are available: 1 Insufficient cpu.", "decode.resources.requests.cpu=1"),
        ("pod has unbound immediate PersistentVolumeClaims: volume", "modelCache.enabled=false"),
        ("node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }", "free disk space"),
        ("node(s) didn't match Pod's node affinity/selector", "describe pod llm-d-decode-1"),
    ],
)
def test_pod_that_no_node_takes_is_told(host: Host, message: str, mend: str) -> None:
    """With the scheduler's own words."""
    result = deploy(host, helm_hangs_llm_d="", containers=READY, unscheduled=f"llm-d-decode-1|{message}\n")
    assert result.status == 6
    assert f"CAUSE: no node takes the pod llm-d-decode-1: {message}" in result.told
    assert mend in result.told


def test_pods_that_are_refused_are_told(host: Host) -> None:
    """Pod Security says what it minds."""
    message = 'pods "llm-d-decode-1" is forbidden: violates PodSecurity "restricted:latest": privileged'
    result = deploy(host, helm_hangs_llm_d="", containers=READY, refused=f"llm-d-decode|{message}\n")
    assert result.status == 6
    assert f"the cluster refuses the pods of llm-d-decode: {message}" in result.told


def test_probe_that_fails_to_the_end_is_told(host: Host) -> None:
    """Nothing crashed: the model was still loading."""
    result = deploy(
        host,
        helm_fails_llm_d="Error: context deadline exceeded",
        containers=worker("", 0, "", ""),
        warnings='Unhealthy|llm-d-decode-1|"Startup probe failed: HTTP probe failed with statuscode: 503"\n',
        log_llm_d_decode_1="Loading safetensors checkpoint shards: 40%",
    )
    assert result.status == 6
    assert "a probe still failed when 25m were over (llm-d-decode-1:" in result.told
    assert 'K3S_ARGS="--timeout 60m"' in result.told
    assert "    Loading safetensors checkpoint shards: 40%" in result.told


def test_entrance_without_address_is_told(host: Host) -> None:
    """All runs, and Helm waits for an address that nobody gives."""
    result = deploy(host, helm_fails_llm_d="Error: timed out", containers=READY, service_address="")
    assert result.status == 6
    assert "the entrance has no address" in result.told
    assert "service.type=NodePort" in result.told


def test_values_that_the_chart_refuses_are_told_by_helm(host: Host) -> None:
    """Before any pod; Helm's words say what to do."""
    refusal = "Error: limits.maxModelLen: 131072 tokens do not fit; the largest that does is 25616"
    result = deploy(host, helm_fails_llm_d=refusal, containers="")
    assert result.status == 6
    assert refusal in result.told
    assert "the chart or the cluster refuses the values" in result.told


def test_helm_of_somebody_else_is_told(host: Host) -> None:
    """Both cannot work on one release."""
    refusal = "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress"
    result = deploy(host, helm_fails_llm_d=refusal, containers="")
    assert result.status == 6
    assert "CAUSE: another Helm runs on this release" in result.told


def test_secret_that_is_missing_is_told(host: Host) -> None:
    """A container that cannot be made names it."""
    row = worker("CreateContainerConfigError", 0, "", "", "secret llm-d-hf-token not found")
    result = deploy(host, helm_hangs_llm_d="", containers=row)
    assert result.status == 6
    assert 'cannot be made: "secret llm-d-hf-token not found"' in result.told


def test_crash_that_is_over_does_not_end_the_wait(host: Host, cluster: Entrance) -> None:
    """A first restart may be bad luck; what runs now is waited for."""
    result = deploy(host, containers=worker("CrashLoopBackOff", 1))
    assert result.status == 0, result.told


def test_token_in_a_worker_log_is_not_shown(host: Host) -> None:
    """Logs of others are not trusted to be clean."""
    text = "token hf_abcdefghijklmnop and s3cr3t-key in the environment"
    host.with_k3s().with_gpu().has("helm").state(gpus="1")
    result = host.answers(helm_fails_llm_d="Error: x", containers=worker(), log_llm_d_decode_1=text).up(
        HF_TOKEN="s3cr3t-key"
    )
    assert "token hf_*** and *** in the environment" in result.told
    assert "s3cr3t-key" not in host.log


def test_wrong_checksum_stops_before_anything_is_run(host: Host) -> None:
    """The file, both sums, and where the pin stands."""
    result = host.up("--mode", "sim", K3S_SHA256_AMD64="0" * 64)
    assert result.status == 5
    assert f"and should be {'0' * 64} (K3S_SHA256_AMD64 of scripts/k3s/versions.sh)" in result.told
    assert not any("k3s-installer" in line for line in result.ran)
    assert not (host.root / "usr/local/bin/k3s").exists()


def test_unpinned_download_is_compared_with_its_publishers_sum(host: Host, cluster: Entrance) -> None:
    """Another version without a pin of its own: the release's list counts."""
    good = host.environment["K3S_SHA256_AMD64"]
    host.download("sha256sum-amd64.txt", f"{'1' * 64}  k3s-airgap-images-amd64.tar\n{good}  k3s\n")
    host.download("install.sh.sha256sum", f"{host.environment['K3S_INSTALL_SHA256']}  install.sh\n")
    unpinned = {"K3S_VERSION": "v1.37.1+k3s1", "K3S_SHA256_AMD64": "", "K3S_INSTALL_SHA256": ""}
    result = host.up("--mode", "sim", **unpinned)
    assert result.status == 0, result.told
    result.order("v1.37.1%2Bk3s1/k3s", "v1.37.1%2Bk3s1/sha256sum-amd64.txt", "install.sh.sha256sum", "k3s-installer")


@pytest.mark.parametrize("published", [f"{'2' * 64}  k3s\n", f"{'2' * 64}  another\n"], ids=["other sum", "other file"])
def test_published_sum_that_does_not_match_stops(host: Host, published: str) -> None:
    """A broken download is not run, and one that the list does not name neither."""
    host.download("sha256sum-amd64.txt", published)
    result = host.up("--mode", "sim", K3S_SHA256_AMD64="")
    assert result.status == 5
    assert not any("k3s-installer" in line for line in result.ran)


def test_download_that_fails_is_named(host: Host) -> None:
    """No network, or a version that is not there."""
    (host.world / "downloads" / "k3s").unlink()
    result = host.up("--mode", "sim")
    assert result.status == 5
    assert "could not download https://github.com/k3s-io/k3s/releases/download/v1.36.4%2Bk3s1/k3s" in result.told


def test_node_that_is_not_ready_is_told(host: Host) -> None:
    """With what the node says."""
    result = host.answers(node_ready="False", node_message="container runtime network not ready").up("--mode", "sim")
    assert result.status == 5
    assert "the node is not ready after five minutes: container runtime network not ready" in result.told


def test_dns_that_is_not_up_is_told(host: Host) -> None:
    """Nothing works without it."""
    result = host.answers(dns_replicas="").up("--mode", "sim")
    assert result.status == 5
    assert "coredns is not available" in result.told


def test_device_plugin_that_offers_nothing_is_told(host: Host) -> None:
    """Its last lines and three usual causes."""
    host.with_gpu().answers(
        gpus_offered="0", device_plugin_log="Failed to initialize NVML: could not load NVML library\n"
    )
    result = host.up()
    assert result.status == 5
    assert "Failed to initialize NVML" in result.told
    for number in ("  1. ", "  2. ", "  3. "):
        assert number in result.told
    assert not any("install llm-d" in line for line in result.ran)


def test_plugin_chart_with_another_checksum_is_not_installed(host: Host) -> None:
    """It runs with privileges."""
    result = host.with_gpu().up(DEVICE_PLUGIN_SHA256="0" * 64)
    assert result.status == 5
    assert "DEVICE_PLUGIN_SHA256" in result.told
    assert not any("install nvidia-device-plugin" in line for line in result.ran)


def test_runtime_that_k3s_does_not_find_is_told(host: Host) -> None:
    """After the one restart."""
    result = host.with_gpu().answers(runtime_not_found="").up()
    assert result.status == 5
    assert result.changes.count("systemctl restart k3s") == 1
    assert "k3s does not take up nvidia-container-runtime" in result.told
