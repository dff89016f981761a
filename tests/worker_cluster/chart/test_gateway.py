"""The way in: the Service of standalone mode, the Gateway API of gateway mode, and nothing in external mode."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.helm import Refused, render
from tests.worker_cluster.cases import CHART

GATEWAY = ("router.mode=gateway", "gateway.className=agentgateway")
ISTIO = ("router.mode=gateway", "gateway.className=istio")


def test_the_entrance_of_standalone_mode_is_envoy() -> None:
    """The Service leads to Envoy's port in the picker's pod."""
    objects = render(CHART, {}, "service.port=8080")
    service = objects.one("Service", "-gateway")["spec"]
    assert service["type"] == "ClusterIP"
    assert service["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]
    pod = objects.one("Deployment", "-epp")["spec"]["template"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    (proxy,) = pod["spec"]["containers"]
    assert {"name": "http", "containerPort": 8081} in proxy["ports"]


def test_the_entrance_can_have_a_port_of_the_nodes() -> None:
    """One that is named, or one that Kubernetes picks."""
    service = render(CHART, {}, "service.type=NodePort", "service.nodePort=30080").one("Service", "-gateway")["spec"]
    assert service["ports"][0]["nodePort"] == 30080
    picked = render(CHART, {}, "service.type=NodePort").one("Service", "-gateway")["spec"]
    assert "nodePort" not in picked["ports"][0]


def test_a_port_of_the_nodes_needs_such_a_service() -> None:
    """A ClusterIP Service has none."""
    with pytest.raises(Refused, match="nodePort"):
        render(CHART, {}, "service.nodePort=30080")


def test_the_picker_of_standalone_mode_offers_metrics_alone() -> None:
    """Its ext_proc is Envoy's, which asks within the pod."""
    ports = {port["port"] for port in render(CHART).one("Service", "-epp")["spec"]["ports"]}
    assert ports == {9090, 19001}


def test_a_gateway_routes_to_the_pool() -> None:
    """The Gateway takes routes of its own namespace; the route leads to the pool, and the pool asks the picker."""
    objects = render(CHART, {}, *GATEWAY, "gateway.listenerPort=8080", "gateway.requestTimeout=600s")
    gateway = objects.one("Gateway")
    assert gateway["spec"]["gatewayClassName"] == "agentgateway"
    (listener,) = gateway["spec"]["listeners"]
    assert (listener["protocol"], listener["port"]) == ("HTTP", 8080)
    assert listener["allowedRoutes"] == {"namespaces": {"from": "Same"}}
    route = objects.one("HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": gateway["metadata"]["name"]}]
    (rule,) = route["rules"]
    assert rule["timeouts"] == {"request": "600s"}
    pool = objects.one("InferencePool")
    assert rule["backendRefs"] == [
        {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool["metadata"]["name"]}
    ]
    assert pool["spec"]["endpointPickerRef"] == {
        "name": "llm-d-epp",
        "port": {"number": 9002},
        "failureMode": "FailOpen",
    }


def test_a_route_takes_the_api_alone() -> None:
    """Other paths of vLLM stay inside, as in standalone mode."""
    (rule,) = render(CHART, {}, *GATEWAY).one("HTTPRoute")["spec"]["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1", "/health"]


def test_a_route_leaves_the_pickers_headers_alone() -> None:
    """A filter of the route would run behind the picker, and take away where the request goes."""
    (rule,) = render(CHART, {}, *GATEWAY).one("HTTPRoute")["spec"]["rules"]
    assert "filters" not in rule


def test_a_pool_selects_all_workers() -> None:
    """Those of decode and of prefill, on the port that a worker or its sidecar has."""
    objects = render(CHART, {}, *GATEWAY, "disaggregation.enabled=true", "gpu.available=2")
    pool = objects.one("InferencePool")["spec"]
    assert pool["targetPorts"] == [{"number": 8000}]
    for role in ("-decode", "-prefill"):
        pod = objects.one("Deployment", role)["spec"]["template"]
        assert pool["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        containers = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
        assert 8000 in {port["containerPort"] for item in containers for port in item.get("ports", ())}


def test_a_gateway_that_is_there_is_attached_to() -> None:
    """By its name and its namespace; none is made."""
    sets = ("gateway.create=false", "gateway.existingName=shared", "gateway.existingNamespace=gateways")
    objects = render(CHART, {}, *GATEWAY, *sets)
    assert not objects.of("Gateway")
    assert objects.one("HTTPRoute")["spec"]["parentRefs"] == [{"name": "shared", "namespace": "gateways"}]


@pytest.mark.parametrize(("sets", "wanted"), [(ISTIO, 1), (GATEWAY, 0), (("router.mode=standalone",), 0)])
def test_istio_is_told_that_the_picker_speaks_tls(sets: tuple[str, ...], wanted: int) -> None:
    """Under a certificate of its own, which nobody can check; other gateways know."""
    rules = render(CHART, {}, *sets).of("DestinationRule")
    assert len(rules) == wanted
    for rule in rules:
        assert rule["spec"]["host"] == "llm-d-epp"
        assert rule["spec"]["trafficPolicy"] == {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}}


def test_objectives_are_of_the_pool() -> None:
    """Each has the name that the router sends, and a priority."""
    values = {"router": {"epp": {"objectives": [{"name": "night", "priority": -5}, {"name": "day", "priority": 0}]}}}
    objects = render(CHART, values, *GATEWAY)
    found = {item["metadata"]["name"]: item["spec"] for item in objects.of("InferenceObjective")}
    pool = {"name": objects.one("InferencePool")["metadata"]["name"]}
    assert found == {"night": {"priority": -5, "poolRef": pool}, "day": {"priority": 0, "poolRef": pool}}


@pytest.mark.parametrize("sets", [("router.epp.discovery=pool",), GATEWAY])
@pytest.mark.parametrize("mode", ["FailOpen", "FailClose"])
def test_failure_mode_reaches_the_pool(sets: tuple[str, ...], mode: str) -> None:
    """In the spelling of the CRD."""
    pool: Any = render(CHART, {}, *sets, f"router.epp.failureMode={mode}").one("InferencePool")
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == mode
