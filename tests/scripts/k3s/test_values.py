"""The values that k3s-up deploys with, rendered by the real chart."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.tree import ROOT
from tests.scripts.k3s.host import Host
from tests.support.helm import CHARTS, Refused, Rendered, render

CHART = CHARTS / "chart"
ENGINES = {"gpu": "vllm/vllm-openai", "cpu": "vllm/vllm-openai-cpu", "sim": "llm-d/llm-d-inference-sim"}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def deployed(host: Host, *arguments: str) -> Rendered:
    """What a run with these arguments would have Helm install."""
    result = host.up("--dry-run", *arguments)
    assert result.status == 0, result.told
    (line,) = [line for line in result.planned if " upgrade --install llm-d " in line]
    words = shlex.split(line)
    values: dict[str, Any] = {}
    sets = []
    for option, value in itertools.pairwise(words):
        if option == "--values":
            values = _merged(values, yaml.safe_load((ROOT / value).read_text()))
        elif option == "--set":
            sets.append(value)
    return render(CHART, values, *sets)


def worker(objects: Rendered) -> dict[str, Any]:
    """The engine's container."""
    pod = objects.one("Deployment", "-decode")["spec"]["template"]["spec"]
    (container,) = [item for item in pod["containers"] if any(port["name"] == "modelserver" for port in item["ports"])]
    return {**container, "pod": pod}


@pytest.mark.parametrize("mode", ["gpu", "cpu", "sim"])
def test_mode_renders_with_its_engine_and_an_open_entrance(host: Host, mode: str) -> None:
    """One worker of the mode's image, and a LoadBalancer on the port that was asked for."""
    objects = deployed(host.with_gpu(), "--mode", mode, "--port", "8088")
    assert f"/{ENGINES[mode]}:" in worker(objects)["image"]
    service = objects.one("Service", "-gateway")["spec"]
    assert (service["type"], service["ports"][0]["port"]) == ("LoadBalancer", 8088)
    assert objects.one("Deployment", "-decode")["spec"]["replicas"] == 1


def test_gpu_worker_gets_the_gpu_its_runtime_and_a_fitted_length(host: Host) -> None:
    """One GPU cannot hold two workers, so that the old one ends first."""
    objects = deployed(host.with_gpu())
    container = worker(objects)
    assert container["pod"]["runtimeClassName"] == "nvidia"
    assert container["resources"]["limits"]["nvidia.com/gpu"] in (1, "1")
    text = " ".join(map(str, container.get("command", []) + container["args"]))
    assert "--max-model-len=auto" in text or "--max-model-len auto" in text
    strategy = objects.one("Deployment", "-decode")["spec"]["strategy"]
    assert strategy["type"] == "Recreate" or strategy["rollingUpdate"]["maxSurge"] == 0


def test_worker_that_loads_for_long_is_no_failed_rollout(host: Host) -> None:
    """Helm 4 gives up on a Deployment that has missed its deadline, which is ten minutes unless it is set."""
    spec = deployed(host.with_gpu()).one("Deployment", "-decode")["spec"]
    assert spec["progressDeadlineSeconds"] > 3600


def test_length_that_does_not_fit_this_gpu_is_refused_before_it_crashes(host: Host) -> None:
    """The guard reckons with the memory that nvidia-smi told, and names what fits."""
    with pytest.raises(Refused, match=r"limits\.maxModelLen"):
        deployed(host.with_gpu(), "--set", "limits.maxModelLen=262144")
    deployed(host, "--set", "limits.maxModelLen=8192")


def test_simulator_needs_neither_weights_nor_gpu(host: Host) -> None:
    """No volume, no GPU, no way out to the internet."""
    objects = deployed(host, "--mode", "sim")
    assert objects.of("PersistentVolumeClaim") == []
    assert "nvidia.com/gpu" not in worker(objects)["resources"].get("limits", {})


@pytest.mark.parametrize("mode", ["gpu", "cpu"])
def test_models_outlive_the_release(host: Host, mode: str) -> None:
    """What k3s-down says of the volume is what the chart tells Helm."""
    claim = deployed(host.with_gpu(), "--mode", mode).one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["metadata"]["labels"]["app.kubernetes.io/instance"] == "llm-d"


@pytest.mark.parametrize("mode", ["gpu", "cpu", "sim"])
def test_pods_are_what_the_namespace_allows(host: Host, mode: str) -> None:
    """The namespace enforces the restricted Pod Security standard in the standalone route."""
    for deployment in deployed(host.with_gpu(), "--mode", mode).of("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        outer = pod.get("securityContext", {})
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["capabilities"]["drop"] == ["ALL"]
            assert inner.get("runAsNonRoot", outer.get("runAsNonRoot")) is True
            profile = inner.get("seccompProfile", outer.get("seccompProfile"))
            assert profile == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))


def test_gateway_route_renders_a_gateway(host: Host) -> None:
    """Its names are those that the smoke test asks for."""
    objects = deployed(host, "--mode", "sim", "--route", "gateway", "--port", "8088")
    gateway = objects.one("Gateway", "llm-d-gateway")
    assert gateway["spec"]["listeners"][0]["port"] == 8088
    assert gateway["spec"]["gatewayClassName"] == "agentgateway"
    assert objects.one("InferencePool")


@pytest.mark.parametrize("mode", ["gpu", "cpu", "sim"])
def test_names_and_labels_are_those_that_are_asked_for(host: Host, mode: str) -> None:
    """What queries.sh, smoke.sh and k3s_down.sh name exists."""
    objects = deployed(host.with_gpu(), "--mode", mode)
    for component, port in (("decode", 8000), ("epp", 9090)):
        deployment = objects.one("Deployment", f"llm-d-{component}")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "llm-d"
        assert labels["app.kubernetes.io/component"] == component
        pod = deployment["spec"]["template"]["spec"]
        containers = pod["containers"] + pod.get("initContainers", [])
        assert port in [item["containerPort"] for container in containers for item in container.get("ports", [])]
    secrets = yaml.safe_load((CHART / "values.yaml").read_text())["secrets"]["hfToken"]
    assert (secrets["existingSecret"], secrets["key"], secrets["optional"]) == ("llm-d-hf-token", "HF_TOKEN", True)


def test_profiles_are_all_used() -> None:
    """A mode has a profile, and a profile a mode."""
    assert {path.stem for path in Path(ROOT / "worker_cluster/profiles").glob("*.yaml")} == set(ENGINES)
