"""The questions to the cluster, asked by the real kubectl of an API with a crashed worker, a waiting one, and a GPU."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.house.tree import ROOT
from tests.scripts.k3s.api_server import ApiServer, api_server

KUBECTL = Path(sys.executable).parent / "kubectl"
IMAGE_MESSAGE = 'Back-off pulling image "vllm:v1": ErrImagePull: not found'


def _object(version: str, kind: str, name: str, labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}, **rest.pop("metadata", {})}
    if kind not in ("Node", "Namespace", "RuntimeClass", "CustomResourceDefinition"):
        metadata["namespace"] = "llm-d"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _pod(component: str, name: str, phase: str, conditions: list[Any], statuses: list[Any]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": "llm-d", "app.kubernetes.io/component": component}
    status = {"phase": phase, "conditions": conditions, "containerStatuses": statuses}
    spec = {"containers": [{"name": name, "image": f"{name}:v1"} for name in ("engine", "epp")]}
    return _object("v1", "Pod", name, labels, spec=spec, status=status)


READY = {"name": "epp", "ready": True, "restartCount": 0, "image": "epp:v1", "state": {"running": {}}, "lastState": {}}
CRASHED = {
    "name": "engine",
    "ready": False,
    "restartCount": 3,
    "image": "vllm:v1",
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s\nrestarting"}},
    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
}
PULLING = {
    "name": "engine",
    "ready": False,
    "restartCount": 0,
    "image": "vllm:v1",
    "state": {"waiting": {"reason": "ImagePullBackOff", "message": IMAGE_MESSAGE}},
    "lastState": {},
}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU is free"}
NODE = _object(
    "v1",
    "Node",
    "here",
    {"nvidia.com/gpu.memory": "23034"},
    status={
        "allocatable": {"nvidia.com/gpu": "2"},
        "conditions": [
            {"type": "MemoryPressure", "status": "False", "message": "enough"},
            {"type": "Ready", "status": "True", "message": "kubelet is posting ready status"},
        ],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.5"}, {"type": "Hostname", "address": "here"}],
    },
)
CPU_NODE = _object("v1", "Node", "other", status={"allocatable": {}, "conditions": [], "addresses": []})
INGRESS = {"loadBalancer": {"ingress": [{"ip": "10.0.0.5"}]}}
OURS = {"app.kubernetes.io/instance": "llm-d"}
VERSION = {"annotations": {"gateway.networking.k8s.io/bundle-version": "v1.5.1"}}
CONTAINERS = (
    "llm-d-epp-1|epp|true|0||||epp:v1|\n"
    'llm-d-decode-1|engine|false|3|CrashLoopBackOff|137|OOMKilled|vllm:v1|"back-off 40s\\nrestarting"\n'
    'llm-d-decode-2|engine|false|0|ImagePullBackOff|||vllm:v1|"Back-off pulling image \\"vllm:v1\\":'
    ' ErrImagePull: not found"\n'
)
OBJECTS = [
    NODE,
    CPU_NODE,
    _pod("epp", "llm-d-epp-1", "Running", [], [READY]),
    _pod("decode", "llm-d-decode-1", "Running", [], [CRASHED]),
    _pod("decode", "llm-d-decode-2", "Pending", [], [PULLING]),
    _pod("decode", "llm-d-decode-3", "Pending", [UNSCHEDULED], []),
    _object("v1", "Pod", "of-somebody-else", {}, status={"containerStatuses": [CRASHED]}),
    _object(
        "v1",
        "Service",
        "llm-d-gateway",
        spec={"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 31080}]},
        status=INGRESS,
    ),
    _object(
        "v1", "Service", "waiting", spec={"type": "LoadBalancer", "ports": [{"port": 80}]}, status={"loadBalancer": {}}
    ),
    _object("v1", "Namespace", "llm-d", {"app.kubernetes.io/managed-by": "k3s-up"}),
    _object("v1", "Secret", "llm-d-hf-token", data={"HF_TOKEN": base64.b64encode(b"hf_token").decode()}),
    _object("v1", "PersistentVolumeClaim", "llm-d-models", OURS),
    _object(
        "v1",
        "Event",
        "e1",
        type="Warning",
        reason="Unhealthy",
        message='Startup probe failed: "503"',
        involvedObject={"name": "llm-d-decode-1"},
    ),
    _object("v1", "Event", "e2", type="Normal", reason="Pulled", message="fine", involvedObject={"name": "x"}),
    _object(
        "apps/v1",
        "Deployment",
        "llm-d-decode",
        OURS,
        status={"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"}]},
    ),
    _object("node.k8s.io/v1", "RuntimeClass", "nvidia", handler="nvidia"),
    _object(
        "apiextensions.k8s.io/v1", "CustomResourceDefinition", "gateways.gateway.networking.k8s.io", metadata=VERSION
    ),
    _object(
        "gateway.networking.k8s.io/v1",
        "Gateway",
        "llm-d-gateway",
        status={"addresses": [{"value": "10.0.0.6"}]},
    ),
]
LOGS = "/api/v1/namespaces/llm-d/pods/llm-d-decode-1/log?container=engine"
RAW = {
    "/readyz": "ok",
    f"{LOGS}&previous=true&tailLines=30": "CUDA out of memory\n",
    "/api/v1/namespaces/llm-d/pods/llm-d-epp-1:9090/proxy/metrics": "llm_d_epp_ready_endpoints 1\n",
}


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """The API with all objects."""
    with api_server(OBJECTS, RAW) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kubectl keeps what it has discovered, for all questions of this file."""
    return tmp_path_factory.mktemp("home")


def _ask(url: str, home: Path, question: str) -> subprocess.CompletedProcess[str]:
    """Run functions of queries.sh, strict as the scripts are, with the real kubectl."""
    head = f"set -euo pipefail; namespace=llm-d; . scripts/k3s/queries.sh; kubectl=({KUBECTL} --server {url}); "
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    command = ["bash", "-c", head + question]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("cluster_answers && echo yes", "yes\n"),
        ("nodes_ready && echo yes", "yes\n"),
        ("node_trouble", "kubelet is posting ready status"),
        ("node_address", "10.0.0.5\n"),
        ("cluster_gpus", "2\n"),
        ("gpus_offered && echo yes", "yes\n"),
        ("cluster_gpu_memory", "23034\n"),
        ("runtime_class_exists && echo yes", "yes\n"),
        ("namespace_exists llm-d && echo yes", "yes\n"),
        ("namespace_exists other || echo no", "no\n"),
        ("namespace_is_ours llm-d && echo yes", "yes\n"),
        ("secret_value llm-d-hf-token HF_TOKEN", "hf_token"),
        ("secret_value no-such HF_TOKEN", ""),
        ("crd_exists gateways.gateway.networking.k8s.io && echo yes", "yes\n"),
        ("crd_version gateways.gateway.networking.k8s.io gateway.networking.k8s.io/bundle-version", "v1.5.1"),
        ("model_claims", "persistentvolumeclaim/llm-d-models\n"),
        ("service_address llm-d-gateway", "10.0.0.5"),
        ("service_address waiting", ""),
        ("service_type llm-d-gateway", "LoadBalancer"),
        ("service_port llm-d-gateway nodePort", "31080"),
        ("gateway_address llm-d-gateway", "10.0.0.6"),
        (
            "containers",
            CONTAINERS,
        ),
        ("unscheduled", "llm-d-decode-3|no GPU is free\n"),
        ("refused", "llm-d-decode|violates PodSecurity\n"),
        ("warnings", 'Unhealthy|llm-d-decode-1|"Startup probe failed: \\"503\\""\n'),
        ("container_log llm-d-decode-1 engine 30", "CUDA out of memory\n"),
        ("pod_metrics llm-d-epp-1 9090", "llm_d_epp_ready_endpoints 1\n"),
        ("pod_of epp", "llm-d-epp-1"),
        ("pod_of decode", "llm-d-decode-1"),
    ],
)
def test_question_is_answered_as_the_scripts_read_it(api: ApiServer, home: Path, question: str, answer: str) -> None:
    """Each template and path is one that kubectl takes, and gives what world.sh gives in its place."""
    reply = _ask(api.url, home, question)
    assert (reply.returncode, reply.stdout) == (0, answer), reply.stderr


def test_silent_cluster_has_no_answer_and_no_failure(home: Path) -> None:
    """What nobody answers is empty; a script goes on and says what it waited for."""
    reply = _ask("http://127.0.0.1:1", home, "cluster_answers || echo silent; containers; cluster_gpus")
    assert (reply.returncode, reply.stdout) == (0, "silent\n0\n")
