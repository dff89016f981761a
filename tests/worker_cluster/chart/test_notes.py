"""What Helm prints behind an installation: how to wait, how to point the router at the cluster, how to try it."""

from __future__ import annotations

import pytest

from tests.support.helm import render
from tests.worker_cluster.cases import CHART


@pytest.mark.parametrize(
    ("sets", "endpoint"),
    [
        ((), "export LLMD_ENDPOINT=http://llm-d-gateway.llm-d.svc "),
        ((), "kubectl -n llm-d port-forward service/llm-d-gateway 8081:80"),
        (("service.type=NodePort",), "get service llm-d-gateway -o jsonpath='{.spec.ports[0].nodePort}')\""),
        (
            ("service.type=LoadBalancer", "service.port=8080"),
            "{.status.loadBalancer.ingress[0].ip}'):8080\"",
        ),
        (
            ("router.mode=gateway",),
            "-n llm-d get gateway llm-d-gateway -o jsonpath='{.status.addresses[0].value}'):80",
        ),
        (
            (
                "router.mode=gateway",
                "gateway.create=false",
                "gateway.existingName=shared",
                "gateway.existingNamespace=gw",
            ),
            "kubectl -n gw get gateway shared ",
        ),
        (("router.mode=external",), "app.kubernetes.io/instance=llm-d,llm-d.ai/inference-serving=true on port 8000"),
    ],
)
def test_notes_say_where_the_router_finds_the_cluster(sets: tuple[str, ...], endpoint: str) -> None:
    """One line to paste, for each way in."""
    assert endpoint in render(CHART, None, *sets).notes


def test_notes_say_how_long_to_wait_and_how_to_try() -> None:
    """The wait is as long as a worker may take, the trial is the smoke test of the release."""
    notes = render(CHART, None, "engine.startupTimeoutSeconds=900").notes
    assert "kubectl -n llm-d rollout status deployment/llm-d-decode --timeout=900s" in notes
    assert "helm -n llm-d test llm-d" in notes


def test_notes_do_not_pass_random_text_off_as_answers() -> None:
    """Whoever runs the simulator reads that it is one."""
    assert "answers random text" in render(CHART, None, "engine.kind=sim").notes
    assert "random" not in render(CHART).notes
