"""Values that do not go together are refused, each with one sentence that says what to set."""

from __future__ import annotations

import pytest

from tests.support.helm import Refused
from tests.worker_cluster.chart_router.router_chart import DATABASE, IMAGE, ONE, environment, rendered

WRONG = {
    "no image": (("persistence.enabled=true",), "image.repository must be set to where you have pushed"),
    "a registry that is lost": (
        (IMAGE,),
        (
            "The registry, with its keys, would be lost with its pod: put DATABASE_URL into secrets.values or "
            "secrets.keys, "
            "or set persistence.enabled=true for one router with a SQLite file."
        ),
    ),
    "several routers without PostgreSQL": (
        (IMAGE, "replicas=2"),
        (
            "replicas=2 routers need one registry in PostgreSQL: put DATABASE_URL into secrets.values or secrets.keys, "
            "or set replicas=1 and persistence.enabled=true."
        ),
    ),
    "several routers on one SQLite file": (
        (*ONE, "replicas=2"),
        (
            "replicas=2 routers need one registry in PostgreSQL: put DATABASE_URL into secrets.values or secrets.keys, "
            "or set replicas=1."
        ),
    ),
    "a scaler without PostgreSQL": (
        (*ONE, "autoscaling.mode=hpa"),
        "autoscaling.max=6 routers need one registry in PostgreSQL",
    ),
    "two registries": (
        (*DATABASE, "persistence.enabled=true"),
        (
            "persistence.enabled keeps a SQLite file, which DATABASE_URL replaces: set persistence.enabled=false, "
            "or take DATABASE_URL out of the secrets."
        ),
    ),
    "two manifests": (
        (*ONE, "manifest.content.models={}", "manifest.existingConfigMap=mine"),
        "manifest.content and manifest.existingConfigMap are two manifests: set one of them.",
    ),
    "bounds upside down": (
        (*DATABASE, "autoscaling.mode=keda", "autoscaling.min=9"),
        "autoscaling.min=9 is more than autoscaling.max=6: swap them.",
    ),
    "a scaler of nothing": (
        (*DATABASE, "autoscaling.mode=hpa", "resources.requests.cpu=null"),
        "autoscaling.mode=hpa reckons in parts of the requested CPU: set resources.requests.cpu.",
    ),
    "a Secret of nothing": (
        (*ONE, "secrets.create=true"),
        (
            "secrets.create makes a Secret of secrets.values, which is empty: "
            "set secrets.create=false, or pass the values with --set-file."
        ),
    ),
    "two Secrets": (
        (*DATABASE, "secrets.create=true", "secrets.values.REDIS_URL=redis://a"),
        (
            "secrets.create makes a Secret, and secrets.existingSecret and secrets.keys name one that is there: "
            "set one or the other."
        ),
    ),
    "secrets in no Secret": (
        (*ONE, "secrets.values.REDIS_URL=redis://a"),
        (
            "secrets.values are in no Secret: set secrets.create=true, "
            "or make the Secret yourself and name it in secrets.existingSecret."
        ),
    ),
    "a Secret without entries": (
        (*ONE, "secrets.existingSecret=mine"),
        (
            "secrets.existingSecret and secrets.keys go together: "
            "name the Secret, and the entries of it that the router gets."
        ),
    ),
    "entries of no Secret": ((*ONE, "secrets.keys={REDIS_URL}"), "secrets.existingSecret and secrets.keys go together"),
    "a router that cannot start": (
        (*ONE, "settings.ROUTER_AUTH=auto"),
        (
            "settings.ROUTER_AUTH=auto refuses to start before there is a key: "
            "leave it out, so that the router starts and lets nobody in."
        ),
    ),
    "a door left open": (
        (*ONE, "settings.ROUTER_AUTH=off"),
        (
            "settings.ROUTER_AUTH=off lets everybody in who reaches the Service: "
            "leave it out, or set openToAll=true if that is meant."
        ),
    ),
    "an Ingress without names": (
        (*ONE, "ingress.enabled=true"),
        "ingress.enabled needs the names that clients call: set ingress.hosts.",
    ),
    "a route to nowhere": (
        (*ONE, "httpRoute.enabled=true"),
        "httpRoute.enabled needs a Gateway to hang on: set httpRoute.parentRefs.",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_values_are_refused_with_what_to_do(wrong: str) -> None:
    """The reason is one sentence that names the values."""
    sets, reason = WRONG[wrong]
    with pytest.raises(Refused) as refused:
        rendered(*sets)
    assert reason in str(refused.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Nobody mends one value only to hear of the next."""
    with pytest.raises(Refused) as refused:
        rendered("replicas=2", "settings.ROUTER_AUTH=off", "ingress.enabled=true")
    for part in ("image.repository", "replicas=2", "ROUTER_AUTH=off", "ingress.hosts"):
        assert part in str(refused.value)


def test_a_variable_from_another_secret_counts() -> None:
    """DATABASE_URL may come from a Secret of its own, by `extraEnv`."""
    variable = {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "pg-app", "key": "uri"}}}
    objects = rendered(IMAGE, "replicas=2", values={"extraEnv": [variable]})
    assert environment(objects)["DATABASE_URL"] == ("pg-app", "uri")


@pytest.mark.parametrize("name", ["ROUTER_ADMIN_KEY", "LLMD_API_KEY"])
def test_a_variable_that_is_set_twice_is_refused(name: str) -> None:
    """Kubernetes would take the last of two, whichever that is."""
    sets = (*ONE, "secrets.existingSecret=mine", "secrets.keys={ROUTER_ADMIN_KEY,LLMD_API_KEY}")
    told = f"extraEnv sets {name}, which the chart sets already: take it out of one of the two."
    with pytest.raises(Refused, match=told):
        rendered(*sets, values={"extraEnv": [{"name": name, "value": "a"}]})


def test_an_open_router_is_let_through_where_it_is_meant() -> None:
    """Saying it twice is enough."""
    objects = rendered(*ONE, "settings.ROUTER_AUTH=off", "openToAll=true")
    assert "ROUTER_AUTH is off" in objects.notes
    assert "keys create" not in objects.notes
