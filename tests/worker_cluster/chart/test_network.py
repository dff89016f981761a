"""Who may talk to whom: the NetworkPolicies, asked as a network plugin would read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.helm import Object, Rendered, render
from tests.worker_cluster.cases import CHART

ROUTER = {"kubernetes.io/metadata.name": "router"}
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
PD = ("disaggregation.enabled=true", "gpu.available=2")
GATEWAY = ("router.mode=gateway", "gateway.className=istio")
CLOSED = {"networkPolicy": {"routerNamespaceSelector": {"matchLabels": ROUTER}}}


@dataclass(frozen=True)
class Peer:
    """A pod, or with no labels somebody outside the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] = field(default_factory=lambda: {"kubernetes.io/metadata.name": "llm-d"})
    inside: bool = True


OUTSIDE = Peer(inside=False)
STRANGER = Peer({"app": "stranger"}, {"kubernetes.io/metadata.name": "elsewhere"})
NEIGHBOUR = Peer({"app": "neighbour"})
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, MONITORING)
CALLER = Peer({"app": "inference-router"}, ROUTER)


def pod(objects: Rendered, ending: str) -> Peer:
    """Return a pod of the release."""
    return Peer(objects.one("Deployment", ending)["spec"]["template"]["metadata"]["labels"])


def reaches(objects: Rendered, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out at its source and in at its target."""
    return _passes(objects, source, target, port, protocol, "Egress") and _passes(
        objects, target, source, port, protocol, "Ingress"
    )


def _passes(objects: Rendered, own: Peer, other: Peer, port: int, protocol: str, direction: str) -> bool:
    policies = [
        item["spec"]
        for item in objects.of("NetworkPolicy")
        if own.inside
        and own.namespace.get("kubernetes.io/metadata.name") == item["metadata"]["namespace"]
        and _matches(item["spec"]["podSelector"], own.labels)
        and direction in item["spec"]["policyTypes"]
    ]
    side = {"Ingress": "from", "Egress": "to"}[direction]
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), ())]
    return not policies or any(_ports(rule, port, protocol) and _peers(rule.get(side), own, other) for rule in rules)


def _ports(rule: Object, port: int, protocol: str) -> bool:
    wanted = rule.get("ports")
    return wanted is None or any((item["port"], item.get("protocol", "TCP")) == (port, protocol) for item in wanted)


def _peers(peers: list[Object] | None, own: Peer, other: Peer) -> bool:
    if peers is None:
        return True
    return other.inside and any(
        _matches(peer.get("podSelector", {}), other.labels)
        and (
            _matches(peer["namespaceSelector"], other.namespace)
            if "namespaceSelector" in peer
            else other.namespace == own.namespace
        )
        for peer in peers
    )


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_workers_are_asked_by_the_entrance_alone() -> None:
    """Envoy and the picker reach a worker; a stranger and even a neighbour do not, on any port."""
    objects = render(CHART)
    decode = pod(objects, "-decode")
    assert reaches(objects, pod(objects, "-epp"), decode, 8000)
    for other in (STRANGER, NEIGHBOUR, CALLER, OUTSIDE):
        assert not [port for port in (8000, 8200, 5600) if reaches(objects, other, decode, port)]


def test_prometheus_reads_all_and_nobody_else_does() -> None:
    """It reaches the metrics of workers, picker and Envoy."""
    objects = render(CHART)
    for target, port in ((pod(objects, "-decode"), 8000), (pod(objects, "-epp"), 9090), (pod(objects, "-epp"), 19001)):
        assert reaches(objects, PROMETHEUS, target, port)
        assert not reaches(objects, STRANGER, target, port)


def test_metrics_are_read_from_the_namespaces_that_are_named() -> None:
    """Whatever reads metrics there may, whatever its labels; Prometheus elsewhere may not."""
    objects = render(CHART, {"networkPolicy": {"monitoringNamespaceSelector": {"matchLabels": MONITORING}}})
    assert reaches(objects, Peer({"app": "agent"}, MONITORING), pod(objects, "-decode"), 8000)
    assert not reaches(objects, Peer(PROMETHEUS.labels, STRANGER.namespace), pod(objects, "-decode"), 8000)


def test_the_entrance_is_open_until_the_router_is_named() -> None:
    """By default whoever reaches the Service may call; then the router's namespace alone, and `helm test`."""
    objects = render(CHART)
    assert all(reaches(objects, other, pod(objects, "-epp"), 8081) for other in (CALLER, STRANGER, OUTSIDE))
    closed = render(CHART, CLOSED)
    epp, smoke = pod(closed, "-epp"), Peer(closed.one("Pod", "-smoke")["metadata"]["labels"])
    assert reaches(closed, CALLER, epp, 8081)
    assert reaches(closed, smoke, epp, 8081)
    assert not [other for other in (STRANGER, NEIGHBOUR, OUTSIDE) if reaches(closed, other, epp, 8081)]


def test_nobody_asks_the_picker_of_standalone_mode() -> None:
    """Envoy asks it within the pod; its ext_proc, its health and Envoy's admin are closed to all."""
    objects = render(CHART)
    for other in (CALLER, NEIGHBOUR, PROMETHEUS, pod(objects, "-decode")):
        assert not [port for port in (9002, 9003, 19000) if reaches(objects, other, pod(objects, "-epp"), port)]


def test_prefill_and_decode_hand_each_other_everything() -> None:
    """Prompts, the side channel and the ports that NIXL chooses, both ways; nobody else gets at them."""
    objects = render(CHART, {}, *PD)
    decode, prefill = pod(objects, "-decode"), pod(objects, "-prefill")
    for port in (8000, 8200, 5600, 43210):
        assert reaches(objects, decode, prefill, port)
        assert reaches(objects, prefill, decode, port)
    assert not [port for port in (8200, 5600, 43210) if reaches(objects, pod(objects, "-epp"), decode, port)]


def test_workers_without_disaggregation_leave_each_other_alone() -> None:
    """They have nothing to tell each other."""
    objects = render(CHART)
    assert not reaches(objects, pod(objects, "-decode"), pod(objects, "-decode"), 8000)


@pytest.mark.parametrize(("allowed", "port"), [(True, 443), (False, 443), (True, 80)])
def test_workers_reach_the_internet_to_download_alone(allowed: bool, port: int) -> None:
    """On 443, while downloads are allowed; names are looked up always."""
    objects = render(CHART, {"networkPolicy": {"allowModelDownload": allowed}})
    decode = pod(objects, "-decode")
    assert reaches(objects, decode, OUTSIDE, port) is (allowed and port == 443)
    assert reaches(objects, decode, OUTSIDE, 53, "UDP")


def test_the_picker_reaches_the_api_server() -> None:
    """It watches pods; apart from that and its workers it has nowhere to go."""
    objects = render(CHART)
    epp = pod(objects, "-epp")
    assert reaches(objects, epp, OUTSIDE, 443)
    assert reaches(objects, epp, OUTSIDE, 6443)
    assert not reaches(objects, epp, OUTSIDE, 80)
    assert not reaches(objects, epp, NEIGHBOUR, 8000)


@pytest.mark.parametrize(
    ("sets", "name", "namespace"),
    [
        (("gateway.create=true",), "llm-d-gateway", "llm-d"),
        (("gateway.create=false", "gateway.existingName=shared", "gateway.existingNamespace=gw"), "shared", "gw"),
    ],
)
def test_a_gateway_asks_the_picker_and_the_workers(sets: tuple[str, ...], name: str, namespace: str) -> None:
    """The pods that its controller labels may, those of another Gateway may not."""
    objects = render(CHART, {}, *GATEWAY, *sets)
    gateway, other = (
        Peer({"gateway.networking.k8s.io/gateway-name": label}, {"kubernetes.io/metadata.name": namespace})
        for label in (name, "other")
    )
    for target, port in ((pod(objects, "-epp"), 9002), (pod(objects, "-decode"), 8000)):
        assert reaches(objects, gateway, target, port)
        assert not reaches(objects, other, target, port)


def test_external_mode_lets_in_the_namespace() -> None:
    """llm-d's own router charts stand there; a stranger stays outside."""
    objects = render(CHART, {}, "router.mode=external")
    assert reaches(objects, NEIGHBOUR, pod(objects, "-decode"), 8000)
    assert not reaches(objects, STRANGER, pod(objects, "-decode"), 8000)
    assert len(objects.of("NetworkPolicy")) == 1


def test_policies_can_be_left_out() -> None:
    """For a cluster that has its own."""
    assert not render(CHART, {}, "networkPolicy.enabled=false").of("NetworkPolicy")
