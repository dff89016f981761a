"""What the charts render, for every `ci/*-values.yaml`, is valid and keeps to the rules of the house."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from tests.support.helm import CHARTS, Object, lint, render
from tests.worker_cluster.cases import CASES, Case, pods

# Kinds of others, which kubernetes-validate has no schema of.
CUSTOM = {
    "gateway.networking.k8s.io/v1": {"Gateway", "HTTPRoute"},
    "inference.networking.k8s.io/v1": {"InferencePool"},
    "llm-d.ai/v1alpha2": {"InferenceObjective"},
    "networking.istio.io/v1": {"DestinationRule"},
    "monitoring.coreos.com/v1": {"PodMonitor", "ServiceMonitor", "PrometheusRule"},
    "keda.sh/v1alpha1": {"ScaledObject"},
}
KUBERNETES = "1.37"
LABELS = {
    "helm.sh/chart",
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
}
# What selects the pods of a component; it never changes for a release, as a Deployment's selector cannot.
SELECTED = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")


@pytest.fixture(scope="module", autouse=True)
def definitions_read_once() -> Iterator[None]:
    """kubernetes-validate reads megabytes of definitions anew for each object; once will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.chart}:{case.name}")


def test_every_chart_has_cases() -> None:
    """A rule over no cases would hold."""
    assert {case.chart for case in CASES} == {path.parent.name for path in CHARTS.glob("*/Chart.yaml")}


@every_case
def test_lint_finds_nothing(case: Case) -> None:
    """`helm lint --strict` is content."""
    assert lint(CHARTS / case.chart, case.values) == []


@every_case
def test_objects_are_valid(case: Case) -> None:
    """Kubernetes would take every object, without an unknown or a misplaced field."""
    for item in case.objects:
        if item["kind"] not in CUSTOM.get(item["apiVersion"], ()):
            assert _fault(item) is None, _name(item)


@every_case
def test_names_are_short_and_unique(case: Case) -> None:
    """No two objects of a kind share a name, and a name fits into a label."""
    names = [(item["kind"], item["metadata"]["name"]) for item in case.objects]
    assert len(names) == len(set(names))
    for _, name in names:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", name), name


@every_case
def test_objects_are_labelled(case: Case) -> None:
    """Every object says what it is, of which release, in the namespace of the release."""
    for item in case.objects:
        assert item["metadata"].get("labels", {}).keys() >= LABELS, _name(item)
        clusterwide = item["kind"] in {"ClusterRole", "ClusterRoleBinding"}
        assert item["metadata"].get("namespace") == (None if clusterwide else "llm-d"), _name(item)


@every_case
def test_images_are_pinned(case: Case) -> None:
    """Every image has a registry and a release or a digest; what runs does not change by itself."""
    for pod in pods(case.objects):
        for container in pod.containers:
            image = container["image"]
            assert re.fullmatch(
                r"[a-z0-9.-]+\.[a-z]+(:\d+)?/[a-z0-9./-]+(:[\w.-]*\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})", image
            ), f"{pod.owner}: {image}"


@every_case
def test_containers_have_resources(case: Case) -> None:
    """Each asks for CPU and memory, and has a limit of memory."""
    for pod in pods(case.objects):
        for container in pod.containers:
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, f"{pod.owner}: {container['name']}"
            assert "memory" in resources["limits"], f"{pod.owner}: {container['name']}"


@every_case
def test_pods_are_restricted(case: Case) -> None:
    """Kubernetes' restricted profile, and a root file system that nobody writes to."""
    for pod in pods(case.objects):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, f"{pod.owner}: {container['name']}"
        assert not [volume for volume in pod.spec.get("volumes", ()) if "hostPath" in volume]


@every_case
def test_pods_get_a_token_only_where_they_have_rights(case: Case) -> None:
    """Whoever may ask nothing of Kubernetes holds no token to ask with."""
    entitled = {
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in case.objects.of(kind)
        for subject in binding["subjects"]
    }
    for pod in pods(case.objects):
        projected = [source for source in _projections(pod.spec) if "serviceAccountToken" in source]
        holds = pod.spec["automountServiceAccountToken"] or bool(projected)
        assert holds is (pod.spec.get("serviceAccountName") in entitled), pod.owner


@every_case
def test_servers_have_probes(case: Case) -> None:
    """What listens is asked whether it is ready, and whether it is alive, on a port that it has."""
    for pod in pods(case.objects):
        named = _ports(pod.containers)
        for container in pod.servers:
            for probe in ("readinessProbe", "livenessProbe"):
                assert probe in container, f"{pod.owner}: {container['name']} has no {probe}"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                check = container.get(probe, {})
                port = next((check[kind]["port"] for kind in ("httpGet", "tcpSocket", "grpc") if kind in check), None)
                assert port is None or port in named, f"{pod.owner}: {probe} of {container['name']} asks {port}"


@every_case
def test_selectors_match_their_pods(case: Case) -> None:
    """A Deployment finds its own pods, and no other component's."""
    for item in case.objects.of("Deployment"):
        wanted = item["spec"]["selector"]["matchLabels"]
        assert set(wanted) == set(SELECTED), _name(item)
        matched = [pod.owner for pod in pods(case.objects) if wanted.items() <= pod.labels.items()]
        assert matched == [f"Deployment/{item['metadata']['name']}"]


@every_case
def test_services_reach_pods(case: Case) -> None:
    """Every Service selects pods of this release, all of which have its target ports."""
    for item in case.objects.of("Service"):
        selector = item["spec"]["selector"]
        chosen = [pod for pod in pods(case.objects) if selector.items() <= pod.labels.items()]
        assert chosen, f"{_name(item)} selects nothing"
        for port in item["spec"]["ports"]:
            for pod in chosen:
                assert port["targetPort"] in _ports(pod.containers), f"{_name(item)}: {pod.owner} lacks {port}"


@every_case
def test_budgets_and_scalers_point_at_what_is_there(case: Case) -> None:
    """A PodDisruptionBudget covers pods; a scaler scales a Deployment that sets no number itself."""
    for item in case.objects.of("PodDisruptionBudget"):
        selector = item["spec"]["selector"]["matchLabels"]
        assert [pod for pod in pods(case.objects) if selector.items() <= pod.labels.items()], _name(item)
    for item in (*case.objects.of("HorizontalPodAutoscaler"), *case.objects.of("ScaledObject")):
        target = case.objects.one("Deployment", item["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], _name(item)


@every_case
def test_what_pods_refer_to_exists(case: Case) -> None:
    """Secrets, ConfigMaps, claims and accounts are rendered, or named by the values; volumes and mounts agree."""
    for pod in pods(case.objects):
        for kind, name, optional in _references(pod.spec):
            known = name in {item["metadata"]["name"] for item in case.objects.of(kind)}
            assert known or optional or name in case.named, f"{pod.owner} refers to {kind}/{name}"
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        mounts = {mount["name"] for item in pod.containers for mount in item.get("volumeMounts", ())}
        assert volumes == mounts, pod.owner


@every_case
def test_secrets_are_told_nowhere_but_in_secrets(case: Case) -> None:
    """Neither another object nor the notes say what a Secret holds."""
    secrets = case.objects.of("Secret")
    held = [b64decode(value).decode() for secret in secrets for value in secret["data"].values()]
    told = str([item for item in case.objects if item["kind"] != "Secret"]) + case.objects.notes
    for line in "\n".join(held).splitlines():
        assert len(line) < 8 or line not in told, "a secret is told"


@every_case
def test_rendering_is_the_same_each_time(case: Case) -> None:
    """Nothing random: an upgrade that changes no value changes no object."""
    assert render(CHARTS / case.chart, case.values) == case.objects


def _fault(item: Object) -> str | None:
    """What Kubernetes has against an object."""
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    except kubernetes_validate.SchemaNotFoundError:
        return "no known kind"
    return None


def _name(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def _projections(spec: Any) -> list[Object]:
    return [source for volume in spec.get("volumes", ()) for source in volume.get("projected", {}).get("sources", ())]


def _ports(containers: list[Object]) -> set[Any]:
    ports = [port for container in containers for port in container.get("ports", ())]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


def _references(spec: Any) -> Iterator[tuple[str, str, bool]]:
    """Yield the kind and the name of what a pod refers to, and whether it starts without it."""
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"], False
    for secret in spec.get("imagePullSecrets", ()):
        yield "Secret", secret["name"], False
    for volume in spec.get("volumes", ()):
        for key, kind, name in (
            ("secret", "Secret", "secretName"),
            ("configMap", "ConfigMap", "name"),
            ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
        ):
            if key in volume:
                yield kind, volume[key][name], volume[key].get("optional", False)
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for variable in container.get("env", ()):
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                source = variable.get("valueFrom", {}).get(key)
                if source:
                    yield kind, source["name"], source.get("optional", False)
        for source in container.get("envFrom", ()):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in source:
                    yield kind, source[key]["name"], source[key].get("optional", False)
