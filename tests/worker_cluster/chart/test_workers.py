"""The workers: what each kind of engine is started with, how it stops, and where its pods go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.helm import Object, Rendered, render
from tests.worker_cluster.cases import CASES, CHART, pods

CONTROLLED = ("gpu.available=4", "disaggregation.enabled=true")


def worker(objects: Rendered, role: str = "decode") -> Any:
    """The spec of a role's pods."""
    return objects.one("Deployment", f"-{role}")["spec"]["template"]["spec"]


def engine(objects: Rendered, role: str = "decode") -> Object:
    """The container that runs the model."""
    (container,) = worker(objects, role)["containers"]
    return container


def environment(container: Object) -> dict[str, str]:
    """Variables that are set to a plain value."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def case(name: str) -> Rendered:
    """The rendering of one of the worker chart's cases."""
    (found,) = [case for case in CASES if case.chart == "chart" and case.name == name]
    return found.objects


def test_vllm_is_started_with_all_limits() -> None:
    """A large model on four GPUs: every limit is an argument, whole numbers stay whole."""
    container = engine(case("gpu-tp4"))
    assert container["command"] == ["vllm", "serve"]
    assert container["args"] == [
        "meta-llama/Llama-3.3-70B-Instruct",
        "--served-model-name",
        "llama-70b",
        "--port=8000",
        "--max-model-len=65536",
        "--max-num-seqs=128",
        "--max-num-queued-reqs=512",
        "--revision=v1.0",
        "--shutdown-timeout=60",
        "--disable-access-log-for-endpoints=/health,/metrics,/v1/models",
        "--tensor-parallel-size=4",
        "--gpu-memory-utilization=0.9",
        "--kv-cache-dtype=fp8",
    ]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_vllm_fits_its_context_by_default() -> None:
    """Without a number, vLLM chooses one that fits; the share of memory is never left to its default."""
    arguments = engine(render(CHART))["args"]
    assert "--max-model-len=auto" in arguments
    assert "--gpu-memory-utilization=0.9" in arguments
    assert not any(argument.startswith("--api-key") for argument in arguments)


def test_large_numbers_are_written_out() -> None:
    """YAML files carry numbers as floats into templates; 1e+06 is no argument of vLLM."""
    objects = render(CHART, {"limits": {"maxModelLen": 1000000, "maxNumQueuedReqs": 2000000, "guard": "off"}})
    assert "--max-model-len=1000000" in engine(objects)["args"]
    assert "--max-num-queued-reqs=2000000" in engine(objects)["args"]


@pytest.mark.parametrize("written", [0.85, "0.85"])
def test_share_of_memory_is_taken_as_set_passes_it(written: Any) -> None:
    """A file holds a number; `--set` makes text of what has a point."""
    objects = render(CHART, {"limits": {"gpuMemoryUtilization": written}})
    assert "--gpu-memory-utilization=0.85" in engine(objects)["args"]


def test_cpu_is_started_without_gpus() -> None:
    """vllm-cpu takes its cache from the host and asks for no GPU and no GPU runtime."""
    objects = render(CHART, {"engine": {"kind": "vllm-cpu"}, "gpu": {"runtimeClassName": "nvidia"}})
    container = engine(objects)
    assert container["image"] == "docker.io/vllm/vllm-openai-cpu:v0.30.0"
    assert environment(container)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert not any("gpu" in argument or "tensor" in argument for argument in container["args"])
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "6Gi"}, "limits": {"memory": "10Gi"}}
    assert "runtimeClassName" not in worker(objects)


def test_simulator_is_started_under_the_name_of_the_model() -> None:
    """It runs a model that nobody knows, so that it asks for no tokenizer, and is called what clients ask for."""
    container = engine(render(CHART, None, "engine.kind=sim", "limits.maxNumQueuedReqs=10"))
    assert "command" not in container
    assert container["args"] == [
        "--model=simulated",
        "--served-model-name",
        "Qwen/Qwen3-4B-Instruct-2507",
        "--port=8000",
        "--max-model-len=262144",
        "--max-num-seqs=64",
        "--max-waiting-queue-length=10",
    ]
    assert "env" not in container


def test_simulator_needs_no_model_cache_and_no_token() -> None:
    """Nothing is downloaded, so there is nowhere to keep it and nothing to download it with."""
    objects = case("sim")
    assert not objects.of("PersistentVolumeClaim")
    assert [volume["name"] for volume in worker(objects)["volumes"]] == ["tmp"]


def test_adapters_are_told_to_the_engine() -> None:
    """Each adapter is a JSON object, as vLLM and the simulator read it; vLLM has to be told to load any."""
    arguments = engine(case("lora"))["args"]
    start = arguments.index("--lora-modules")
    assert arguments[start - 1] == "--enable-lora"
    assert [json.loads(each) for each in arguments[start + 1 : start + 3]] == [
        {"name": "support", "path": "/models/adapters/support"},
        {"name": "legal", "path": "example/qwen3-legal-lora"},
    ]
    assert arguments[-1] == "--max-lora-rank=32"
    sets = ("engine.kind=sim", "model.loraModules[0].name=a,model.loraModules[0].path=b")
    assert "--enable-lora" not in engine(render(CHART, None, *sets))["args"]


@pytest.mark.parametrize("seconds", [0, 60, 600])
def test_worker_has_time_for_running_answers(seconds: int) -> None:
    """It sleeps until callers know, then vLLM lets answers end, and Kubernetes waits for both and a little more."""
    objects = render(CHART, {"engine": {"shutdownTimeoutSeconds": seconds}})
    container = engine(objects)
    assert f"--shutdown-timeout={seconds}" in container["args"]
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert worker(objects)["terminationGracePeriodSeconds"] == seconds + 30


def test_worker_has_time_to_load_its_model() -> None:
    """Only then is it asked whether it is alive; ready is who lists the model, not who merely listens."""
    container = engine(render(CHART, {"engine": {"startupTimeoutSeconds": 1800}}))
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 1800
    assert startup["httpGet"]["path"] == container["readinessProbe"]["httpGet"]["path"] == "/v1/models"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"


def test_worker_writes_only_where_it_may() -> None:
    """Home, weights, temporary files and shared memory are volumes; the weights are where Hugging Face looks."""
    objects = render(CHART)
    container = engine(objects)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/tmp", "/cache", "/models", "/dev/shm"}
    assert {environment(container)[name] for name in ("HOME", "HF_HOME")} <= mounts
    (shared,) = [volume["emptyDir"] for volume in worker(objects)["volumes"] if volume["name"] == "shm"]
    assert shared == {"medium": "Memory", "sizeLimit": "2Gi"}


@pytest.mark.parametrize(
    ("sets", "claim"),
    [
        ((), "llm-d-models"),
        (("modelCache.existingClaim=weights",), "weights"),
        (("modelCache.enabled=false",), None),
    ],
)
def test_weights_are_kept_where_the_values_say(sets: tuple[str, ...], claim: str | None) -> None:
    """On a claim of the chart's, on one that is there, or with the pod; the chart makes no claim but its own."""
    objects = render(CHART, None, *sets)
    (volume,) = [volume for volume in worker(objects)["volumes"] if volume["name"] == "models"]
    assert volume.get("persistentVolumeClaim", {}).get("claimName") == claim
    made = [item["metadata"]["name"] for item in objects.of("PersistentVolumeClaim")]
    assert made == [claim for claim in [claim] if claim == "llm-d-models"]


def test_weights_stay_when_the_release_goes() -> None:
    """Helm keeps the claim on uninstall: what took an hour to download is still there."""
    claim = render(CHART).one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_offline_workers_do_not_try_to_download() -> None:
    """Where the network policy shuts them in, they take what is in the cache, at once."""
    assert "HF_HUB_OFFLINE" not in environment(engine(render(CHART)))
    assert environment(engine(case("hardened")))["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("sets", "strategy"),
    [
        ((), {"type": "Recreate"}),
        (("gpu.available=1",), {"type": "Recreate"}),
        (("gpu.available=2",), "surge"),
        (("gpu.available=3", "gpu.count=2"), {"type": "Recreate"}),
        (("decode.replicas=2",), "one less"),
        (("decode.replicas=2", "gpu.available=3"), "surge"),
        (("autoscaling.mode=hpa",), "one less"),
        (("engine.kind=sim",), "surge"),
        (("engine.kind=sim", "decode.strategy=Recreate"), {"type": "Recreate"}),
        (("decode.strategy=RollingUpdate",), "surge"),
    ],
)
def test_update_never_waits_for_a_gpu_that_never_comes(sets: tuple[str, ...], strategy: Any) -> None:
    """A new worker is started beside the old ones only where there is room for it."""
    known = {
        "surge": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "one less": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    }
    expected = known[strategy] if isinstance(strategy, str) else strategy
    assert render(CHART, None, *sets).one("Deployment", "-decode")["spec"]["strategy"] == expected


@pytest.mark.parametrize(
    ("sets", "names"),
    [
        ((), []),
        (("decode.replicas=2",), ["llm-d-decode"]),
        (("decode.replicas=2", "pdb.enabled=false"), []),
        (("autoscaling.mode=hpa",), []),
        (("autoscaling.mode=hpa", "autoscaling.min=2"), ["llm-d-decode"]),
        ((*CONTROLLED, "disaggregation.prefill.replicas=2"), ["llm-d-prefill"]),
    ],
)
def test_budget_never_keeps_a_node_from_being_drained(sets: tuple[str, ...], names: list[str]) -> None:
    """Only where there are two workers of a role at least, and then one of them may always go."""
    budgets = render(CHART, None, *sets).of("PodDisruptionBudget")
    assert [each["metadata"]["name"] for each in budgets] == names
    assert all(each["spec"]["maxUnavailable"] == 1 for each in budgets)


def test_disaggregation_puts_a_sidecar_before_decode_alone() -> None:
    """Requests reach the sidecar on the port of every worker; vLLM stands behind it on another."""
    objects = case("gpu-pd")
    (sidecar,) = worker(objects)["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == "ghcr.io/llm-d/llm-d-router-disagg-sidecar:v0.10.0"
    assert sidecar["args"] == ["--port=8000", "--kv-connector=nixlv2", "--secure-proxy=false"]
    assert sidecar["ports"] == [{"name": "modelserver", "containerPort": 8000}]
    assert engine(objects)["ports"] == [{"name": "engine", "containerPort": 8200}]
    assert "--port=8200" in engine(objects)["args"]
    assert "initContainers" not in worker(objects, "prefill")
    assert engine(objects, "prefill")["ports"] == [{"name": "modelserver", "containerPort": 8000}]


@pytest.mark.parametrize("name", ["gpu-pd", "gpu-1"])
def test_service_of_workers_finds_the_sidecar(name: str) -> None:
    """Its port is a number, as Services of Kubernetes 1.30 do not look up the ports of sidecars by name."""
    assert case(name).one("Service", "-workers")["spec"]["ports"] == [
        {"name": "modelserver", "port": 8000, "targetPort": 8000}
    ]


@pytest.mark.parametrize("role", ["decode", "prefill"])
def test_disaggregation_connects_the_caches(role: str) -> None:
    """Both sides speak NIXL, on the address of the pod."""
    container = engine(case("gpu-pd"), role)
    (transfer,) = [each for each in container["args"] if each.startswith("--kv-transfer-config=")]
    assert json.loads(transfer.split("=", 1)[1]) == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    (host,) = [each for each in container["env"] if each["name"] == "VLLM_NIXL_SIDE_CHANNEL_HOST"]
    assert host["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_picker_finds_all_workers_by_their_labels() -> None:
    """Whatever their role, workers carry the label of the pool; nothing else of the release does."""
    objects = case("gpu-pd")
    serving = [pod for pod in pods(objects) if pod.labels.get("llm-d.ai/inference-serving") == "true"]
    assert {pod.owner: pod.labels["llm-d.ai/role"] for pod in serving} == {
        "Deployment/llm-d-decode": "decode",
        "Deployment/llm-d-prefill": "prefill",
    }
    assert all(pod.labels["llm-d.ai/engine-type"] == "vllm" for pod in serving)


def test_pods_go_where_the_values_say() -> None:
    """Nodes, taints and runtime class are as told; without a spread of their own, pods go to different nodes."""
    spec = worker(case("gpu-tp4"))
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert worker(case("gpu-1"))["runtimeClassName"] == "nvidia"
    (spread,) = spec["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


def test_resources_of_ones_own_keep_the_others() -> None:
    """Whoever says how much memory a worker may take does not have to say the rest again, its GPUs least of all."""
    objects = render(CHART, {"decode": {"resources": {"requests": {"cpu": "8"}, "limits": {"memory": "64Gi"}}}})
    assert engine(objects)["resources"] == {
        "requests": {"cpu": "8", "memory": "8Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }


def test_mirror_takes_the_place_of_every_registry() -> None:
    """Not one image is pulled from anywhere else; a digest wins over the tag."""
    objects = case("hardened")
    images = {container["image"] for pod in pods(objects) for container in pod.containers}
    assert all(image.startswith("mirror.example:5000/llm-d/") for image in images)
    digest = "sha256:6a09e667f3bcc908b2fb1366ea957d3e3adec17512775099da2f590b0667322a"
    assert engine(objects)["image"] == f"mirror.example:5000/llm-d/vllm/vllm-openai@{digest}"


def test_prometheus_finds_workers_by_annotation() -> None:
    """For a Prometheus without the operator, the pods say where their metrics are."""
    template = case("hpa").one("Deployment", "-decode")["spec"]["template"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8000",
        "prometheus.io/path": "/metrics",
    }
