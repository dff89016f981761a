"""Monitors, alerts and the dashboard: what they read exists, and Prometheus itself takes the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import Rendered, render
from tests.worker_cluster.cases import CASES, CHART, Case, pods

# Metrics of the endpoint picker v0.10.0 (its docs/metrics.md), vLLM and Envoy that alerts and dashboard may ask for.
METRICS = {
    "envoy_http_downstream_rq_xx",
    "llm_d_epp_disagg_decision_total",
    "llm_d_epp_flow_control_pool_saturation",
    "llm_d_epp_flow_control_queue_size",
    "llm_d_epp_flow_control_request_queue_duration_seconds_bucket",
    "llm_d_epp_flow_control_requests_total",
    "llm_d_epp_flow_control_stale_endpoints",
    "llm_d_epp_ready_endpoints",
    "llm_d_epp_request_duration_seconds_bucket",
    "llm_d_epp_request_error_total",
    "llm_d_epp_request_running",
    "llm_d_epp_request_streaming_tpot_seconds_bucket",
    "llm_d_epp_request_total",
    "llm_d_epp_request_ttft_seconds_bucket",
    "vllm:generation_tokens_total",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prompt_tokens_total",
}
OPERATED = [case for case in CASES if case.chart == "chart" and case.values["metrics"]["operator"] == "always"]
OPERATOR = "metrics.operator=always"
SCALE_TO_ZERO = ("autoscaling.mode=keda", "autoscaling.keda.scaleToZero=true")
KINDS = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


def test_prometheus_reads_workers_picker_and_envoy() -> None:
    """Every monitor selects pods or a Service of the release, by a port that they have."""
    objects = render(CHART, {}, OPERATOR)
    monitor = objects.one("PodMonitor")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    workers = [pod for pod in pods(objects) if monitor["selector"]["matchLabels"].items() <= pod.labels.items()]
    assert [pod.owner for pod in workers] == ["Deployment/llm-d-decode"]
    assert endpoint["port"] in {port["name"] for item in workers[0].containers for port in item.get("ports", ())}
    monitor = objects.one("ServiceMonitor")["spec"]
    service = objects.one("Service", "-epp")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {(item["port"], item["path"]) for item in monitor["endpoints"]} == {
        ("metrics", "/metrics"),
        ("proxy-metrics", "/stats/prometheus"),
    }
    assert {item["port"] for item in monitor["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def test_a_service_monitor_selects_one_service_alone() -> None:
    """A second Service of the same labels would be read twice."""
    objects = render(CHART, {}, OPERATOR)
    wanted = objects.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    chosen = [item for item in objects.of("Service") if wanted.items() <= item["metadata"]["labels"].items()]
    assert [item["metadata"]["name"] for item in chosen] == ["llm-d-epp"]


def test_interval_and_labels_come_from_the_values() -> None:
    """A Prometheus finds monitors and rules by labels of its own."""
    values = {"metrics": {"operator": "always", "interval": "30s", "extraLabels": {"release": "prometheus"}}}
    objects = render(CHART, values)
    for kind in KINDS:
        assert objects.one(kind)["metadata"]["labels"]["release"] == "prometheus"
    assert [item["interval"] for item in _endpoints(objects)] == ["30s"] * 3


@pytest.mark.parametrize("operator", ["auto", "never"])
def test_a_cluster_without_the_operator_gets_none_of_its_objects(operator: str) -> None:
    """An unknown kind would fail the whole installation."""
    assert not {item["kind"] for item in render(CHART, {}, f"metrics.operator={operator}")} & KINDS


@pytest.mark.parametrize(
    ("value", "kind"), [("podMonitor", "PodMonitor"), ("serviceMonitor", "ServiceMonitor"), ("rules", "PrometheusRule")]
)
def test_each_kind_can_be_left_out(value: str, kind: str) -> None:
    """One by one."""
    assert not render(CHART, {}, OPERATOR, f"metrics.{value}=false").of(kind)


def test_annotations_serve_a_prometheus_without_the_operator() -> None:
    """They name the port of the metrics, on workers and on the picker; there are none unless asked for."""
    annotated = render(CHART, {}, "metrics.annotations=true")
    for ending, port in (("-decode", "8000"), ("-epp", "9090")):
        annotations = annotated.one("Deployment", ending)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (port, "/metrics")
    assert "prometheus.io" not in str(list(render(CHART)))


def test_external_mode_monitors_the_workers() -> None:
    """The picker is upstream's, and so is its monitor; its series are found by their namespace."""
    objects = render(CHART, {}, OPERATOR, "router.mode=external")
    assert objects.one("PodMonitor")
    assert not objects.of("ServiceMonitor")
    assert 'service="' not in str(_alerts(objects))


@pytest.mark.parametrize("case", OPERATED, ids=lambda case: case.name)
def test_alerts_ask_for_what_exists(case: Case) -> None:
    """Every metric is one that picker or workers have, of this release's namespace."""
    for alert in _alerts(case.objects).values():
        assert _metrics(alert["expr"]) <= METRICS
        for selector in re.findall(r"\{[^}]*\}", alert["expr"]):
            assert 'namespace="llm-d"' in selector
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"].keys() == {"summary", "description"}


def test_alerts_cover_what_goes_wrong() -> None:
    """Those that the how-to names, and no other."""
    assert set(_alerts(render(CHART, {}, OPERATOR))) == {
        "LlmdEndpointPickerGone",
        "LlmdNoReadyWorkers",
        "LlmdRequestsFail",
        "LlmdSlowFirstToken",
        "LlmdRefusesRequests",
        "LlmdSaturated",
        "LlmdStaleWorkers",
        "LlmdCacheFull",
        "LlmdPreemptions",
    }


def test_alerts_of_flow_control_go_with_it() -> None:
    """Without it the picker has no such series."""
    alerts = _alerts(render(CHART, {}, OPERATOR, "router.epp.flowControl.enabled=false"))
    assert not [alert for alert in alerts.values() if "flow_control" in alert["expr"]]
    assert "LlmdNoReadyWorkers" in alerts


def test_the_dashboard_asks_for_what_exists() -> None:
    """Every panel's expression, with the namespace that is chosen above it."""
    for panel in _panels():
        for target in panel["targets"]:
            assert _metrics(target["expr"]) <= METRICS, panel["title"]
            assert 'namespace="$namespace"' in target["expr"], panel["title"]


def test_no_metric_is_listed_in_vain() -> None:
    """The list above is what alerts and dashboard ask for, so it can be checked against another release."""
    asked = {name for panel in _panels() for target in panel["targets"] for name in _metrics(target["expr"])}
    alerts = {name for case in OPERATED for alert in _alerts(case.objects).values() for name in _metrics(alert["expr"])}
    assert asked | alerts == METRICS


def test_the_dashboard_lies_flat() -> None:
    """Panels have names and ids of their own and do not overlap."""
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafana_finds_the_dashboard() -> None:
    """By the label that its sidecar looks for; it can be left out."""
    assert render(CHART).one("ConfigMap", "-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert not [
        item for item in render(CHART, {}, "metrics.dashboard=false").of("ConfigMap") if "dashboard" in str(item)
    ]


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not here"
)


@needs_promtool
@pytest.mark.parametrize("case", OPERATED, ids=lambda case: case.name)
def test_prometheus_takes_the_alerts(case: Case, tmp_path: Path) -> None:
    """Its own tool finds no fault in any expression or template."""
    _promtool("check", "rules", _written(case.objects, tmp_path))


@needs_promtool
@pytest.mark.parametrize(
    ("series", "fires"),
    [
        ({}, {"LlmdEndpointPickerGone"}),
        ({"llm_d_epp_ready_endpoints": "2"}, set()),
        ({"llm_d_epp_ready_endpoints": "0"}, {"LlmdNoReadyWorkers"}),
        ({"llm_d_epp_ready_endpoints": "0", "llm_d_epp_flow_control_pool_saturation": "1"}, {"LlmdNoReadyWorkers"}),
        ({"llm_d_epp_ready_endpoints": "2", "llm_d_epp_flow_control_pool_saturation": "1.2"}, {"LlmdSaturated"}),
        ({"llm_d_epp_ready_endpoints": "2", "llm_d_epp_flow_control_stale_endpoints": "1"}, {"LlmdStaleWorkers"}),
        (
            {
                "llm_d_epp_ready_endpoints": "2",
                "llm_d_epp_request_total": "0+100x60",
                "llm_d_epp_request_error_total{error_code='x'}": "0+10x60",
            },
            {"LlmdRequestsFail"},
        ),
        (
            {
                "llm_d_epp_ready_endpoints": "2",
                "llm_d_epp_flow_control_requests_total{outcome='Dispatched'}": "0+90x60",
                "llm_d_epp_flow_control_requests_total{outcome='RejectedCapacity'}": "0+10x60",
            },
            {"LlmdRefusesRequests"},
        ),
        (
            {
                "llm_d_epp_ready_endpoints": "2",
                "llm_d_epp_flow_control_requests_total{outcome='Dispatched'}": "0+90x60",
                "llm_d_epp_flow_control_requests_total{outcome='EvictedContextCancelled'}": "0+10x60",
            },
            set(),
        ),
        (
            {
                "llm_d_epp_ready_endpoints": "2",
                "llm_d_epp_request_ttft_seconds_bucket{le='1'}": "0+90x60",
                "llm_d_epp_request_ttft_seconds_bucket{le='10'}": "0+100x60",
                "llm_d_epp_request_ttft_seconds_bucket{le='+Inf'}": "0+100x60",
            },
            {"LlmdSlowFirstToken"},
        ),
        (
            {
                "llm_d_epp_ready_endpoints": "2",
                "vllm:kv_cache_usage_perc{pod='llm-d-decode-a'}": "0.95",
                "vllm:num_preemptions_total{pod='llm-d-prefill-b'}": "0+2x60",
            },
            {"LlmdCacheFull", "LlmdPreemptions"},
        ),
        ({"llm_d_epp_ready_endpoints": "2", "vllm:kv_cache_usage_perc{pod='another-decode-a'}": "0.95"}, set()),
    ],
)
def test_alerts_fire_when_they_should(series: dict[str, str], fires: set[str], tmp_path: Path) -> None:
    """After an hour of such series, those alerts and no other."""
    objects = render(CHART, {}, OPERATOR)
    _promtool("test", "rules", _scenario(objects, series, fires, tmp_path))


@needs_promtool
@pytest.mark.parametrize(("waiting", "fires"), [("0", set()), ("3", {"LlmdNoReadyWorkers"})])
def test_no_worker_is_right_while_nobody_asks(waiting: str, fires: set[str], tmp_path: Path) -> None:
    """With scale-to-zero the alert looks for somebody who waits."""
    series = {"llm_d_epp_ready_endpoints": "0", "llm_d_epp_flow_control_queue_size": waiting}
    objects = render(CHART, {}, OPERATOR, *SCALE_TO_ZERO)
    _promtool("test", "rules", _scenario(objects, series, fires, tmp_path))


def _endpoints(objects: Rendered) -> Iterator[Any]:
    yield from objects.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    yield from objects.one("ServiceMonitor")["spec"]["endpoints"]


def _alerts(objects: Rendered) -> dict[str, Any]:
    groups = objects.one("PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def _dashboard() -> Any:
    return json.loads(render(CHART).one("ConfigMap", "-dashboard")["data"]["worker-cluster.json"])


def _panels() -> list[Any]:
    return [panel for panel in _dashboard()["panels"] if panel["type"] != "row"]


def _metrics(expression: str) -> set[str]:
    return set(re.findall(r"[a-z_:]+(?=\{)", expression))


def _written(objects: Rendered, folder: Path) -> Path:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(objects.one("PrometheusRule")["spec"]), encoding="utf-8")
    return path


def _scenario(objects: Rendered, series: dict[str, str], fires: set[str], folder: Path) -> Path:
    """Write a test of promtool's: series of the release, and for every alert whether it fires after an hour."""
    alerts = _alerts(objects)
    inputs = []
    for name, values in series.items():
        metric, _, labels = name.rstrip("}").partition("{")
        own = ["namespace='llm-d'", *(["service='llm-d-epp'"] if metric.startswith("llm_d") else [])]
        inputs.append(
            {
                "series": f"{metric}{{{','.join([*own, *([labels] if labels else [])])}}}",
                "values": values if "x" in values else f"{values}x60",
            }
        )
    test = {
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{alertname='{name}',alertstate='firing'}}) or vector(0)",
                "eval_time": "59m",
                "exp_samples": [{"labels": "{}", "value": int(name in fires)}],
            }
            for name in alerts
        ],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(_written(objects, folder))], "tests": [test]}), encoding="utf-8")
    return path


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
