"""The schema of the chart's values is complete and strict: what is misspelt or of a wrong kind is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.helm import Refused, lint, render
from tests.worker_cluster.cases import CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
# Helm hands `global` to a chart that another one depends on.
UNWRITTEN = {"global"}


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into the definitions."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return SCHEMA["$defs"][name] if name else schema


def _sections(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield every mapping whose keys the schema fixes, with its values."""
    schema = _resolved(schema)
    if "properties" in schema:
        yield path, schema, values
        for key, inner in schema["properties"].items():
            yield from _sections(inner, values.get(key) if isinstance(values, dict) else None, f"{path}/{key}")
    if "items" in schema:
        yield from _sections(schema["items"], None, f"{path}/0")


SECTIONS = [(path, values) for path, _, values in _sections(SCHEMA, VALUES) if isinstance(values, dict) and values]


def test_schema_is_strict_everywhere() -> None:
    """No mapping with named keys lets another key through."""
    for path, schema, _ in _sections(SCHEMA, VALUES):
        assert schema["additionalProperties"] is False, path


def test_schema_and_values_know_the_same_keys() -> None:
    """What the schema allows is written down in values.yaml, and the other way round."""
    for path, schema, values in _sections(SCHEMA, VALUES):
        if isinstance(values, dict) and values and not path.endswith("resources"):
            assert set(schema["properties"]) - UNWRITTEN == set(values), path
            # A key without a value takes the default away.
            assert set(schema["required"]) == set(values), path


@pytest.mark.parametrize("path", [path for path, _ in SECTIONS])
def test_misspelt_key_is_refused_by_name(path: str) -> None:
    """Wherever a key is misspelt, the refusal says which, and where."""
    values: dict[str, Any] = {}
    place = values
    for key in path.split("/")[1:]:
        place = place.setdefault(key, {})
    place["misspelt"] = 1
    with pytest.raises(Refused, match=f"at '{path}': additional properties 'misspelt' not allowed"):
        render(CHART, values)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("engine.kind=tgi", "'/engine/kind': value must be one of 'vllm', 'vllm-cpu', 'sim'"),
        (
            "router.epp.failureMode=FailClosed",
            "'/router/epp/failureMode': value must be one of 'FailOpen', 'FailClose'",
        ),
        ("autoscaling.mode=both", "'/autoscaling/mode': value must be one of 'none', 'hpa', 'keda'"),
        ("metrics.operator=true", "'/metrics/operator': value must be one of 'auto', 'always', 'never'"),
        ("limits.maxModelLen=automatic", "'/limits/maxModelLen': value must be 'auto'"),
        ("limits.maxModelLen=-1", "'/limits/maxModelLen': minimum: got -1, want 16"),
        ("limits.gpuMemoryUtilization=90", "'/limits/gpuMemoryUtilization': maximum: got 90, want 1"),
        ("limits.gpuMemoryUtilization=1.5", "'/limits/gpuMemoryUtilization': '1.5' does not match pattern"),
        ("gpu.count=0", "'/gpu/count': minimum: got 0, want 1"),
        ("gpu.count=two", "'/gpu/count': got string, want integer"),
        ("decode.replicas=-1", "'/decode/replicas': minimum: got -1, want 0"),
        ("podSecurity.runAsUser=0", "'/podSecurity/runAsUser': minimum: got 0, want 1"),
        ("service.nodePort=30080", "'/service/nodePort': value must be 0"),
        ("secrets.hfToken.create=true", "'/secrets/hfToken/value': minLength: got 0, want 1"),
        ("secrets.hfToken.value=token", "'/secrets/hfToken/value': maxLength: got 5, want 0"),
        ("secrets.routerApiKeys.create=true", "'/secrets/routerApiKeys/keys': minItems: got 0, want 1"),
        ("commonLabels.llm-d\\.ai/role=decode", "invalid propertyName 'llm-d.ai/role'"),
        (
            "modelCache.accessModes={ReadWriteOncePod}",
            "'/modelCache/accessModes/0': value must be one of 'ReadWriteOnce', 'ReadWriteMany'",
        ),
        ("engine.image.digest=latest", "'/engine/image/digest': 'latest' does not match pattern"),
    ],
)
def test_wrong_value_is_refused_by_name(expression: str, told: str) -> None:
    """The refusal says which value, and what may stand there."""
    with pytest.raises(Refused) as refusal:
        render(CHART, None, expression)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("section", "key"),
    [("limits", "maxModelLen"), ("networkPolicy", "enabled"), ("podSecurity", "runAsUser"), ("router", "epp")],
)
def test_key_without_a_value_is_refused_by_name(section: str, key: str) -> None:
    """`maxModelLen:` with nothing behind it is neither the default nor zero."""
    with pytest.raises(Refused, match=f"at '/{section}': missing property '{key}'"):
        render(CHART, None, f"{section}.{key}=null")


def test_lint_checks_the_schema() -> None:
    """`helm lint` refuses what `helm install` would."""
    assert any("misspelt" in problem for problem in lint(CHART, {"engine": {"misspelt": 1}}))


def test_chart_can_be_a_dependency() -> None:
    """`global`, which Helm adds to the values of a chart that another one depends on, is let through."""
    assert render(CHART, {"global": {"team": "ml"}})
