"""Settings and secrets: the chart knows the router's own names, and the router understands what it is given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.registry.manifest import parse_manifest
from router.settings import RouterSettings
from scripts.chart_settings import OWN
from tests.support.helm import Refused
from tests.worker_cluster.cases import CASES, Case, strings
from tests.worker_cluster.chart_router.router_chart import CHART, DATABASE, ONE, container, environment, rendered

every_case = pytest.mark.parametrize("case", [case for case in CASES if case.chart == CHART.name], ids=lambda c: c.name)


def test_every_setting_has_its_place() -> None:
    """Each of the router's settings is a plain one, a secret, or set by the chart from a value of its own."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    plain = set(schema["properties"]["settings"]["properties"])
    secret = set(schema["$defs"]["secretName"]["anyOf"][0]["enum"])
    known = {str(field.validation_alias) for field in RouterSettings.model_fields.values()}
    assert known <= plain | secret | OWN
    assert not plain & secret
    assert not (plain | secret) & OWN
    assert {name for name in plain | secret if not name.startswith("EXTERNAL_")} <= known


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("settings.ROUTER_DEADLIN=600",), "ROUTER_DEADLIN"),
        (("settings.DATABASE_URL=postgresql://a",), "DATABASE_URL"),
        (("settings.ROUTER_ADMIN_KEY=a",), "ROUTER_ADMIN_KEY"),
        (("settings.ROUTER_PORT=80",), "ROUTER_PORT"),
        (("settings.EXTERNAL_OPENIA_BASE_URL=https://a",), "EXTERNAL_OPENIA_BASE_URL"),
        (("settings.ROUTER_WORKERS=0",), "ROUTER_WORKERS"),
        (("settings.ROUTER_AUTH=false",), "ROUTER_AUTH"),
        (("settings.OTEL_TRACES_SAMPLER_ARG=2",), "OTEL_TRACES_SAMPLER_ARG"),
        (("secrets.keys={DATABSE_URL,ROUTER_ADMINKEY}",), "secrets"),
        (("secrets.keys={EXTERNAL_OPENIA_KEY}",), "secrets"),
        (("secrets.values.REDIS_URL=",), "REDIS_URL"),
        (("replica=2",), "replica"),
        (("drain.second=5",), "second"),
        (("image.digest=latest",), "digest"),
    ],
)
def test_what_the_router_does_not_know_is_refused_by_name(sets: tuple[str, ...], told: str) -> None:
    """A typo stops the installation, and not only what it was meant for."""
    with pytest.raises(Refused, match=told):
        rendered(*ONE, *sets)


@every_case
def test_router_understands_its_environment(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable that the chart renders is read by the router as what the values say."""
    told = environment(case.objects)
    for name, value in told.items():
        monkeypatch.setenv(name, value if isinstance(value, str) else "redis://a" if name == "REDIS_URL" else "secret")
    settings = RouterSettings()
    by_name = {
        str(field.validation_alias): getattr(settings, name) for name, field in RouterSettings.model_fields.items()
    }
    for name, value in case.values.get("settings", {}).items():
        if name in by_name:
            assert by_name[name] == value
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert settings.auth == "required"
    assert settings.local_agent_url == "off"


@every_case
def test_router_writes_where_it_may(case: Case) -> None:
    """The root file system is read-only; journal, SQLite file and temporary files are on volumes."""
    spec = case.objects.one("Deployment")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container(case.objects)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    told = environment(case.objects)
    assert told["SQLITE_DB_PATH"].rpartition("/")[0] in mounts
    assert "emptyDir" in volumes[mounts["/tmp"]]
    assert ("ROUTER_REGISTRY_FILE" in told) is ("/etc/router" in mounts)
    assert ("DATABASE_URL" in told) is ("emptyDir" in volumes["data"])


def test_secrets_are_in_the_secret_alone() -> None:
    """What is passed as a secret is in one object of `kind: Secret`, and in nothing else, notes included."""
    values: dict[str, Any] = {
        "secrets": {
            "create": True,
            "values": {"DATABASE_URL": "postgresql://u:hunter2@h/d\n", "ROUTER_ADMIN_KEY": "hunter2"},
        }
    }
    objects = rendered("image.repository=registry.example/router", values=values)
    (secret,) = objects.of("Secret")
    others = [item for item in objects if item is not secret]
    assert "hunter2" not in objects.notes + "".join(strings(others))
    assert "aHVudGVyMg" not in "".join(strings(others))  # nor encoded
    assert environment(objects)["DATABASE_URL"] == (secret["metadata"]["name"], "DATABASE_URL")
    assert secret["data"]["DATABASE_URL"] == "cG9zdGdyZXNxbDovL3U6aHVudGVyMkBoL2Q="  # without the file's newline


def test_secrets_of_another_are_referenced() -> None:
    """A Secret that is there is named, entry by entry, and not made."""
    objects = rendered(*DATABASE)
    assert objects.of("Secret") == []
    assert environment(objects)["REDIS_URL"] == ("mine", "REDIS_URL")


def test_a_change_of_manifest_or_secrets_is_a_rollout() -> None:
    """Routers read both when they start, so pods are replaced when they change, and only then."""

    def annotations(*sets: str) -> dict[str, str]:
        made = rendered("image.repository=registry.example/router", "secrets.create=true", *sets)
        found: dict[str, str] = made.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        return found

    first = annotations("secrets.values.DATABASE_URL=a")
    assert annotations("secrets.values.DATABASE_URL=a") == first
    assert annotations("secrets.values.DATABASE_URL=b")["checksum/secrets"] != first["checksum/secrets"]
    declared = annotations("secrets.values.DATABASE_URL=a", "manifest.content.backends={}")
    assert declared["checksum/manifest"] != first["checksum/manifest"]


@pytest.mark.parametrize("form", ["mapping", "text"])
def test_manifest_reaches_the_router_as_it_was_written(form: str) -> None:
    """The ConfigMap's entry is a manifest, whether it came as values or as a file."""
    text = "models: [{id: m, context_length: 131072, deployments: [{backend: b, price: {input: 0.15}}]}]\n"
    text = 'backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: external}]\n' + text
    content: Any = (
        text
        if form == "text"
        else json.loads(json.dumps(parse_manifest(text).model_dump(mode="json", exclude_defaults=True)))
    )
    objects = rendered(*ONE, values={"manifest": {"content": content}})
    data = objects.one("ConfigMap")["data"]
    assert parse_manifest(data["models.yaml"]) == parse_manifest(text)
    assert environment(objects)["ROUTER_REGISTRY_FILE"] == "/etc/router/models.yaml"
