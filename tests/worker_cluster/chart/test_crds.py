"""Custom resources against the CRDs of the pinned releases, which are not part of this repository.

`CHART_CRDS` names a folder with their YAML: the Gateway API, its inference extension (v1.6.0), llm-d router (v0.10.0).
Without it these are skipped; the few rules that values can break are tested everywhere, in test_gateway.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.helm import render
from tests.worker_cluster.cases import CASES, CHART, Case

FOLDER = os.environ.get("CHART_CRDS")  # noqa: TID251
KINDS = {"Gateway", "HTTPRoute", "InferencePool", "InferenceObjective"}
GATEWAY = ("router.mode=gateway", "gateway.className=istio")

pytestmark = pytest.mark.skipif(not FOLDER, reason="CHART_CRDS names no folder of CRDs")


@pytest.mark.parametrize("case", [case for case in CASES if case.chart == "chart"], ids=lambda case: case.name)
def test_custom_resources_are_valid(case: Case) -> None:
    """The API server would take each of them, without an unknown field."""
    for item in case.objects:
        if item["kind"] in KINDS:
            _validate(item)


def test_cases_render_every_kind() -> None:
    """A rule over no objects would hold."""
    assert {item["kind"] for case in CASES for item in case.objects} >= KINDS


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("InferencePool", lambda spec: spec["endpointPickerRef"].update(failureMode="FailClosed")),
        ("InferencePool", lambda spec: spec.update(targetPortNumber=8000)),
        ("InferenceObjective", lambda spec: spec.pop("poolRef")),
        ("HTTPRoute", lambda spec: spec["rules"][0]["timeouts"].update(request="5 minutes")),
    ],
)
def test_the_check_bites(kind: str, change: Any) -> None:
    """A wrong enum, an unknown field, a missing one and a wrong format are found."""
    item = render(CHART, {}, *GATEWAY).of(kind)[0]
    _validate(item)
    change(item["spec"])
    with pytest.raises(jsonschema.ValidationError):
        _validate(item)


def _validate(item: Any) -> None:
    schema = _schemas()[item["apiVersion"], item["kind"]]
    spec = {key: value for key, value in item.items() if key not in {"apiVersion", "kind", "metadata"}}
    jsonschema.validate(spec, schema)


@cache
def _schemas() -> dict[tuple[str, str], Any]:
    """The schema of each served version, without what the API server itself knows."""
    found = {}
    for crd in _documents():
        if crd["kind"] == "CustomResourceDefinition":
            for version in crd["spec"]["versions"]:
                if version["served"]:
                    schema = _strict(version["schema"]["openAPIV3Schema"])
                    for name in ("apiVersion", "kind", "metadata"):
                        del schema["properties"][name]
                    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
                    found[f"{group}/{version['name']}", kind] = schema
    return found


def _documents() -> Iterator[Any]:
    for path in sorted(Path(FOLDER or "").rglob("*.yaml")):
        yield from filter(None, yaml.safe_load_all(path.read_text(encoding="utf-8")))


def _strict(schema: Any) -> Any:
    """Turn a CRD's schema into JSON Schema that knows no other fields than those."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    closed = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
