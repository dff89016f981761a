"""What the chart tells Envoy in standalone mode; test_entrance.py runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.envoy import BINARY, unpacked
from tests.support.helm import Refused, render
from tests.worker_cluster.cases import CASES, CHART, Case

STANDALONE = [
    case
    for case in CASES
    if case.chart == "chart" and case.values.get("router", {}).get("mode", "standalone") == "standalone"
]


@pytest.mark.parametrize("case", STANDALONE, ids=lambda case: case.name)
def test_envoy_takes_the_configuration(case: Case, tmp_path: Path) -> None:
    """Envoy itself finds no fault in what any case renders, and nothing that a later release drops."""
    data = case.objects.one("ConfigMap", "-proxy")["data"]
    checked = subprocess.run(
        [BINARY, "--mode", "validate", "--config-path", unpacked(data, tmp_path), "--log-level", "warn"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr.strip()) == (0, "")


def test_the_image_is_the_release_of_the_tested_binary() -> None:
    """What the tests run is what the cluster runs."""
    told = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    image = _pod("engine.kind=sim")["containers"][0]["image"]
    assert image.rpartition(":v")[2] in told.split("/")


def test_timeouts_come_from_the_values() -> None:
    """The longest answer, and the longest silence; the wait for a worker is no silence."""
    routes = _routes("router.proxy.streamTimeout=7200s", "router.proxy.idleTimeout=200s")
    assert (routes["picked"]["route"]["timeout"], routes["picked"]["route"]["idle_timeout"]) == ("7200s", "200s")
    waits = _routes("router.proxy.idleTimeout=200s", "router.epp.flowControl.ttl=900s")
    assert waits["picked"]["route"]["idle_timeout"] == "930s"


@pytest.mark.parametrize(
    ("sets", "seconds"),
    [
        (("router.epp.flowControl.ttl=120s",), "150s"),
        (("router.epp.flowControl.ttl=9000s",), "3600s"),
        (("router.epp.flowControl.enabled=false",), "30s"),
    ],
)
def test_envoy_waits_for_the_picker_as_long_as_requests_queue(sets: tuple[str, ...], seconds: str) -> None:
    """A little longer than a request may wait there, and no longer than Envoy can."""
    (filter_,) = [item for item in _manager(*sets)["http_filters"] if item["name"].endswith("ext_proc")]
    assert filter_["typed_config"]["message_timeout"] == seconds


@pytest.mark.parametrize("value", ["1h", "500ms", "60", "0s"])
def test_a_time_that_envoy_cannot_read_is_refused(value: str) -> None:
    """Envoy reads seconds alone; another unit would keep it from starting."""
    with pytest.raises(Refused, match="streamTimeout"):
        render(CHART, {"router": {"proxy": {"streamTimeout": value}}})


def test_fail_close_has_no_way_round_the_picker() -> None:
    """Without FailOpen there is not even a cluster of all workers."""
    config = _config("router.epp.failureMode=FailClose")
    assert "any_worker" not in {cluster["name"] for cluster in config["static_resources"]["clusters"]}


def test_failure_mode_is_one_of_two() -> None:
    """`FailClosed`, as upstream's own page once had it, is refused."""
    with pytest.raises(Refused, match="failureMode"):
        render(CHART, {}, "router.epp.failureMode=FailClosed")


def test_keys_are_mounted_from_a_secret() -> None:
    """They come as files of a Secret, for Envoy alone; no ConfigMap and no argument holds one."""
    made = render(CHART, {"secrets": {"routerApiKeys": {"create": True, "keys": ["a-key-of-the-router"]}}})
    pod = made.one("Deployment", "-epp")["spec"]["template"]["spec"]
    assert {"name": "router-keys", "secret": {"secretName": "llm-d-router-keys", "defaultMode": 0o440}} in pod[
        "volumes"
    ]
    (proxy,), (epp,) = pod["containers"], pod["initContainers"]
    assert "router-keys" in {mount["name"] for mount in proxy["volumeMounts"]}
    assert "router-keys" not in {mount["name"] for mount in epp["volumeMounts"]}


def test_the_drain_hook_is_clean() -> None:
    """ShellCheck finds nothing."""
    subprocess.run([BINARY.parent / "shellcheck", CHART / "files" / "drain.sh"], check=True)


def test_the_pod_outlives_the_drain() -> None:
    """Kubernetes kills nobody before the hook has had its time."""
    pod = _pod("router.proxy.drainSeconds=300")
    assert pod["terminationGracePeriodSeconds"] > 300
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == "300"


def _pod(*sets: str) -> Any:
    return render(CHART, {}, *sets).one("Deployment", "-epp")["spec"]["template"]["spec"]


def _config(*sets: str) -> Any:
    return yaml.safe_load(render(CHART, {}, *sets).one("ConfigMap", "-proxy")["data"]["envoy.yaml"])


def _manager(*sets: str) -> Any:
    listener = _config(*sets)["static_resources"]["listeners"][0]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def _routes(*sets: str) -> dict[str, Any]:
    (host,) = _manager(*sets)["route_config"]["virtual_hosts"]
    return {route["name"]: route for route in host["routes"]}
