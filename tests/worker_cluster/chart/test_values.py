"""Every value of the chart does something: a change of it is seen in the objects, in the notes, or in a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.helm import Refused, render
from tests.worker_cluster.cases import CHART

KEDA = "autoscaling.mode=keda"
PREFILL = ("engine.kind=sim", "disaggregation.enabled=true")
GATEWAY = "router.mode=gateway"
GUARDED = (
    "gpu.memoryMiB=23034",
    "limits.maxModelLen=20000",
    "model.id=example/model",
    "model.params.weightsMiB=16000",
    "model.params.layers=32",
    "model.params.kvHeads=8",
    "model.params.headDim=128",
)
MONITORED = "metrics.operator=always"
RESOURCES = {"requests": {"cpu": "3"}}
SPREAD = [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]
AFFINITY = {"podAntiAffinity": {}}

# Another value of each, and what has to be set beside it for the change to matter.
CHANGES: dict[str, tuple[Any, ...]] = {
    "fullnameOverride": ("other",),
    "commonLabels": ({"team": "ml"},),
    "imageRegistry": ("mirror.example",),
    "imagePullSecrets": ([{"name": "login"}],),
    "engine.kind": ("sim",),
    "engine.image.repository": ("registry.example/vllm",),
    "engine.image.tag": ("v0.30.1",),
    "engine.image.digest": ("sha256:" + "0" * 64,),
    "engine.image.pullPolicy": ("Always",),
    "engine.extraArgs": (["--enforce-eager"],),
    "engine.extraEnv": ([{"name": "OMP_NUM_THREADS", "value": "4"}],),
    "engine.startupTimeoutSeconds": (600,),
    "engine.shutdownTimeoutSeconds": (120,),
    "model.id": ("Qwen/Qwen3-8B",),
    "model.servedName": ("chat",),
    "model.revision": ("v1",),
    "model.loraModules": ([{"name": "legal", "path": "/models/legal"}],),
    "model.params.weightsMiB": (22000, *GUARDED),
    "model.params.layers": (64, *GUARDED),
    "model.params.kvHeads": (32, *GUARDED),
    "model.params.headDim": (256, *GUARDED),
    "model.params.latentDim": (8192, *GUARDED),
    "model.params.nativeMaxLen": (8192, *GUARDED),
    "model.params.activationMiB": (4000, *GUARDED),
    "limits.maxModelLen": (4096,),
    "limits.minConcurrency": (4, *GUARDED),
    "limits.guard": ("warn", "limits.maxModelLen=262144", "gpu.memoryMiB=23034"),
    "limits.kvCacheDtype": ("fp8",),
    "limits.maxNumSeqs": (8,),
    "limits.maxNumQueuedReqs": (64,),
    "limits.gpuMemoryUtilization": (0.8,),
    "limits.cpuKvCacheGiB": (4, "engine.kind=vllm-cpu"),
    "gpu.count": (2,),
    "gpu.available": (2,),
    "gpu.resource": ("example.com/gpu",),
    "gpu.memoryMiB": (8188,),
    "gpu.runtimeClassName": ("nvidia",),
    "gpu.nodeSelector": ({"gpu": "true"},),
    "gpu.tolerations": ([{"key": "gpu", "operator": "Exists"}],),
    "decode.replicas": (2,),
    "decode.strategy": ("RollingUpdate",),
    "decode.resources": (RESOURCES,),
    "decode.affinity": (AFFINITY,),
    "decode.topologySpreadConstraints": (SPREAD,),
    "disaggregation.enabled": (True, "engine.kind=sim"),
    "disaggregation.prefill.replicas": (2, *PREFILL),
    "disaggregation.prefill.strategy": ("Recreate", *PREFILL),
    "disaggregation.prefill.resources": (RESOURCES, *PREFILL),
    "disaggregation.prefill.affinity": (AFFINITY, *PREFILL),
    "disaggregation.prefill.topologySpreadConstraints": (SPREAD, *PREFILL),
    "disaggregation.sidecar.resources": (RESOURCES, *PREFILL),
    "disaggregation.minPromptTokens": (512, *PREFILL),
    "router.mode": ("external",),
    "router.epp.replicas": (2, GATEWAY),
    "router.epp.resources": (RESOURCES,),
    "router.epp.pluginsConfig": ("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n",),
    "router.epp.flowControl.enabled": (False,),
    "router.epp.flowControl.ttl": ("120s",),
    "router.epp.flowControl.maxRequests": (100,),
    "router.epp.discovery": ("pool",),
    "router.epp.objectives": ([{"name": "only", "priority": 1}], GATEWAY),
    "router.epp.failureMode": ("FailClose",),
    "router.proxy.resources": (RESOURCES,),
    "router.proxy.streamTimeout": ("60s",),
    "router.proxy.idleTimeout": ("30s",),
    "router.proxy.drainSeconds": (10,),
    "gateway.className": ("istio", GATEWAY),
    "gateway.create": (False, GATEWAY),
    "gateway.existingName": ("shared", GATEWAY, "gateway.create=false"),
    "gateway.existingNamespace": ("gateways", GATEWAY, "gateway.create=false", "gateway.existingName=shared"),
    "gateway.listenerPort": (8080, GATEWAY),
    "gateway.requestTimeout": ("60s", GATEWAY),
    "service.type": ("NodePort",),
    "service.port": (8080,),
    "service.nodePort": (30080, "service.type=NodePort"),
    "secrets.hfToken.create": (True, "secrets.hfToken.value=token"),
    "secrets.hfToken.value": ("token", "secrets.hfToken.create=true"),
    "secrets.hfToken.existingSecret": ("other",),
    "secrets.hfToken.key": ("token",),
    "secrets.hfToken.optional": (False,),
    "secrets.routerApiKeys.create": (True, "secrets.routerApiKeys.keys={a-key-for-the-router}"),
    "secrets.routerApiKeys.keys": (["a-key-for-the-router"], "secrets.routerApiKeys.create=true"),
    "secrets.routerApiKeys.existingSecret": ("keys",),
    "modelCache.enabled": (False,),
    "modelCache.size": ("100Gi",),
    "modelCache.storageClass": ("fast",),
    "modelCache.accessModes": (["ReadWriteMany"],),
    "modelCache.existingClaim": ("weights",),
    "metrics.operator": ("always",),
    "metrics.podMonitor": (False, MONITORED),
    "metrics.serviceMonitor": (False, MONITORED),
    "metrics.rules": (False, MONITORED),
    "metrics.dashboard": (False,),
    "metrics.annotations": (True,),
    "metrics.slowFirstTokenSeconds": (2, MONITORED),
    "metrics.interval": ("60s", MONITORED),
    "metrics.extraLabels": ({"release": "prometheus"}, MONITORED),
    "autoscaling.mode": ("keda",),
    "autoscaling.min": (2, KEDA),
    "autoscaling.max": (3, KEDA),
    "autoscaling.hpa.metric": ("busy", "autoscaling.mode=hpa"),
    "autoscaling.hpa.targetRunning": (8, "autoscaling.mode=hpa"),
    "autoscaling.keda.serverAddress": ("http://prometheus:9090", KEDA),
    "autoscaling.keda.queueThreshold": (2, KEDA),
    "autoscaling.keda.runningThreshold": (8, KEDA),
    "autoscaling.keda.pollSeconds": (30, KEDA),
    "autoscaling.keda.cooldownSeconds": (600, KEDA, "autoscaling.keda.scaleToZero=true"),
    "autoscaling.keda.scaleToZero": (True, KEDA),
    "pdb.enabled": (False, "decode.replicas=2"),
    "networkPolicy.enabled": (False,),
    "networkPolicy.routerNamespaceSelector": ({"matchLabels": {"a": "b"}},),
    "networkPolicy.monitoringNamespaceSelector": ({"matchLabels": {"a": "b"}},),
    "networkPolicy.allowModelDownload": (False,),
    "podSecurity.runAsUser": (10001,),
    "podSecurity.fsGroup": (10001,),
}


def _paths(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the path of every value; what it holds, where that is one thing to its user, is not looked into."""
    for key, inner in values.items():
        if isinstance(inner, dict) and inner and key != "resources":
            yield from _paths(inner, (*path, key))
        else:
            yield ".".join((*path, key))


def _outcome(*sets: str, path: str = "", value: Any = None) -> tuple[Any, str]:
    values: dict[str, Any] = {}
    if path:
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    try:
        rendered = render(CHART, values, *sets)
    except Refused as refusal:
        return None, str(refusal)
    return list(rendered), rendered.notes


def test_changes_cover_every_value() -> None:
    """A value that nobody changes here is one that may do nothing."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(_paths(values)) == set(CHANGES)


@pytest.mark.parametrize("path", CHANGES)
def test_value_does_something(path: str) -> None:
    """What is rendered, told or refused is another thing with another value."""
    value, *beside = CHANGES[path]
    before = _outcome(*beside)
    others = [each for each in beside if not each.startswith(f"{path}=")]
    assert _outcome(*others, path=path, value=value) != before
