"""How routers come and go: rollouts, drains, scaling, and what they may reach."""

from __future__ import annotations

import re
from typing import Any

import pytest

from router.workers import supervisor
from tests.worker_cluster.chart_router.router_chart import DATABASE, ONE, environment, rendered


def ports(policy: dict[str, Any]) -> set[int]:
    """Return the ports that a policy lets a router reach."""
    return {entry["port"] for rule in policy["spec"]["egress"] for entry in rule["ports"]}


def test_rollout_takes_no_router_away_first() -> None:
    """A new router is ready before an old one is told to stop."""
    spec = rendered(*DATABASE, "replicas=2").one("Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert rendered(*ONE).one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_grace_covers_settling_draining_and_the_end() -> None:
    """Kubernetes kills a router only after it would have ended by itself, its supervisor's patience included."""
    objects = rendered(*DATABASE, "drain.settleSeconds=7", "drain.seconds=300")
    told = environment(objects)
    assert (told["ROUTER_SETTLE_SECONDS"], told["ROUTER_DRAIN_SECONDS"]) == ("7", "300")
    grace = objects.one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > 7 + 300 + supervisor._AFTER_DRAIN


def test_settling_outlasts_the_probes() -> None:
    """A load balancer that only knows `/readyz` has looked elsewhere before connections are refused."""
    objects = rendered(*DATABASE)
    probe = objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    longest = probe["failureThreshold"] * (probe["periodSeconds"] + probe["timeoutSeconds"])
    assert float(environment(objects)["ROUTER_SETTLE_SECONDS"]) >= longest


def test_budget_is_for_two_and_more() -> None:
    """A budget on a single router would keep its node from being drained."""
    assert rendered(*ONE).of("PodDisruptionBudget") == []
    assert len(rendered(*DATABASE, "replicas=2").of("PodDisruptionBudget")) == 1
    assert rendered(*DATABASE, "replicas=2", "pdb.enabled=false").of("PodDisruptionBudget") == []
    assert len(rendered(*DATABASE, "autoscaling.mode=hpa").of("PodDisruptionBudget")) == 1
    assert rendered(*DATABASE, "autoscaling.mode=hpa", "autoscaling.min=1").of("PodDisruptionBudget") == []


@pytest.mark.parametrize(("mode", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_scaler_owns_the_number_of_routers(mode: str, kind: str) -> None:
    """One scaler, and no number in the Deployment that a rollout would set it back to."""
    objects = rendered(*DATABASE, f"autoscaling.mode={mode}")
    assert "replicas" not in objects.one("Deployment")["spec"]
    scalers = [item["kind"] for item in objects if item["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    assert scalers == [kind]
    assert objects.one(kind)["spec"]["scaleTargetRef"]["name"] == "router"


def test_keda_asks_for_a_metric_that_the_router_has() -> None:
    """The query names a series of the reference of metrics, by the pods of this release."""
    (trigger,) = rendered(*DATABASE, "autoscaling.mode=keda").one("ScaledObject")["spec"]["triggers"]
    found = re.fullmatch(r'sum\((\w+)\{namespace="gateway",pod=~"router-\.\+"\}\)', trigger["metadata"]["query"])
    assert found is not None
    assert found[1] in described_metrics()


def described_metrics() -> set[str]:
    """Return the names of the router's metrics, from the code."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from router.metrics import RouterMetrics  # noqa: PLC0415

    registry = CollectorRegistry()
    RouterMetrics(registry)
    return {metric.name for metric in registry.collect()}


def test_policy_reaches_only_what_is_used() -> None:
    """Ports open with what is configured: a database, Redis, the cluster, providers."""
    quiet = "networkPolicy.allowProviders=false"
    assert ports(rendered(*ONE).one("NetworkPolicy")) == {53, 5000, 443}
    assert ports(rendered(*DATABASE, quiet).one("NetworkPolicy")) == {53, 5432, 6379, 5000}
    with_cluster = rendered(*DATABASE, "settings.LLMD_ENDPOINT=http://llm-d-gateway.llm-d.svc", quiet)
    assert ports(with_cluster.one("NetworkPolicy")) == {53, 5432, 6379, 8081, 80, 5000}
    assert rendered(*ONE, "networkPolicy.enabled=false").of("NetworkPolicy") == []


def test_policy_lets_in_who_is_named() -> None:
    """Without names everybody may call; with names only they, and who reads metrics."""
    assert "from" not in rendered(*ONE).one("NetworkPolicy")["spec"]["ingress"][0]
    named = rendered(*ONE, "networkPolicy.clientNamespaceSelector.matchLabels.team=a").one("NetworkPolicy")
    assert named["spec"]["ingress"][0]["from"] == [
        {"namespaceSelector": {"matchLabels": {"team": "a"}}},
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}},
    ]


def test_policy_with_no_port_left_opens_none() -> None:
    """A rule without ports would mean every port."""
    values = {"networkPolicy": {"allowProviders": False, "agentPorts": []}}
    assert ports(rendered(*ONE, values=values).one("NetworkPolicy")) == {53}


def test_notes_say_how_to_get_in() -> None:
    """The first key is made in a router, and what is not as it should be is told."""
    alone = rendered(*ONE).notes
    assert "kubectl -n gateway exec deployment/router -- routerctl keys create --name first" in alone
    assert "WARNING" not in alone
    assert "set replicas=2" in rendered(*DATABASE).notes
    without = rendered(
        "image.repository=registry.example/router",
        "replicas=2",
        "secrets.existingSecret=mine",
        "secrets.keys={DATABASE_URL}",
    )
    assert "without REDIS_URL" in without.notes
