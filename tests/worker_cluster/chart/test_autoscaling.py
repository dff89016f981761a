"""Autoscaling: what the number of workers follows, and between which bounds."""

from __future__ import annotations

import pytest

from tests.support.helm import render
from tests.worker_cluster.cases import CHART


def test_nothing_scales_by_itself() -> None:
    """Without a scaler, the number is that of the values."""
    objects = render(CHART, None, "decode.replicas=3")
    assert objects.one("Deployment", "-decode")["spec"]["replicas"] == 3
    assert not objects.of("HorizontalPodAutoscaler")
    assert not objects.of("ScaledObject")


@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_scaler_is_the_only_one_to_set_the_number(mode: str) -> None:
    """An upgrade does not put back the number that a scaler chose, and there is one scaler, not two."""
    objects = render(CHART, None, f"autoscaling.mode={mode}")
    assert "replicas" not in objects.one("Deployment", "-decode")["spec"]
    assert len(objects.of("HorizontalPodAutoscaler")) + len(objects.of("ScaledObject")) == 1


def test_hpa_follows_what_workers_run() -> None:
    """On a metric of the pods, under the name that the adapter of the cluster gives it."""
    values = {"autoscaling": {"mode": "hpa", "min": 2, "max": 6, "hpa": {"metric": "busy", "targetRunning": 8}}}
    spec = render(CHART, values).one("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llm-d-decode"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["metrics"] == [
        {"type": "Pods", "pods": {"metric": {"name": "busy"}, "target": {"type": "AverageValue", "averageValue": "8"}}}
    ]


def test_keda_follows_what_the_picker_holds() -> None:
    """Requests that wait and requests that run, of this release's endpoint picker and no other's."""
    spec = render(CHART, None, "autoscaling.mode=keda").one("ScaledObject")["spec"]
    assert spec["scaleTargetRef"] == {"name": "llm-d-decode"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["pollingInterval"]) == (1, 2, 15)
    assert {each["metadata"]["query"]: each["metadata"]["threshold"] for each in spec["triggers"]} == {
        'sum(llm_d_epp_flow_control_queue_size{namespace="llm-d",service="llm-d-epp"})': "1",
        'sum(llm_d_epp_request_running{namespace="llm-d",service="llm-d-epp"})': "16",
    }


def test_keda_follows_a_picker_of_another_chart_by_its_namespace() -> None:
    """In external mode nobody here knows what its Service is called."""
    spec = render(CHART, None, "autoscaling.mode=keda", "router.mode=external").one("ScaledObject")["spec"]
    assert all('{namespace="llm-d"}' in each["metadata"]["query"] for each in spec["triggers"])


def test_keda_stops_the_last_worker_only_when_told() -> None:
    """Zero is a state of its own, entered after a while without a request; above it, the bounds hold as before."""
    plain = render(CHART, None, "autoscaling.mode=keda").one("ScaledObject")["spec"]
    assert not {"idleReplicaCount", "cooldownPeriod"} & plain.keys()
    zero = render(CHART, None, "autoscaling.mode=keda", "autoscaling.keda.scaleToZero=true").one("ScaledObject")["spec"]
    assert (zero["idleReplicaCount"], zero["minReplicaCount"], zero["cooldownPeriod"]) == (0, 1, 300)


@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_workers_are_not_dropped_over_a_lull(mode: str) -> None:
    """A model takes minutes to load; one worker a minute goes, after five minutes of less to do."""
    (scaler,) = [
        item
        for item in render(CHART, None, f"autoscaling.mode={mode}")
        if item["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    spec = scaler["spec"] if mode == "hpa" else scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert spec["behavior"]["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
