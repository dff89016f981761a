"""Charts through Helm's own engine: linted, their values checked, their templates rendered; no cluster, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.support.process import ROOT

__all__ = ["CHARTS", "Refused", "Rendered", "case_values", "lint", "render"]

CHARTS = ROOT / "worker_cluster"
Values = Mapping[str, Any]
Object = dict[str, Any]
_INFO = 1
# libyaml reads many times faster; some builds of PyYAML lack it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(Exception):
    """Helm refuses the values; the text is what its user reads."""


class Rendered(list[Object]):
    """The objects of one rendering, in the order of their templates.

    Attributes:
        notes: What Helm prints behind an installation.
    """

    notes: str = ""

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [item for item in self if item["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> Object:
        """Return the only object of a kind whose name ends so."""
        (found,) = [item for item in self.of(kind) if item["metadata"]["name"].endswith(ending)]
        return found


def case_values(chart: Path, case: str) -> dict[str, Any]:
    """Return the values of `ci/<case>-values.yaml`."""
    return helm_python.values_from_yaml((chart / "ci" / f"{case}-values.yaml").read_text(encoding="utf-8"))


def lint(chart: Path, values: Values | None = None) -> list[str]:
    """Return what `helm lint --strict` finds."""
    report = helm_python.lint(chart, dict(values or {}), strict=True)
    told = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > _INFO]
    return sorted({*told, *report["errors"]})


def render(
    chart: Path, values: Values | None = None, *sets: str, name: str = "llm-d", namespace: str = "llm-d"
) -> Rendered:
    """Return what `helm template -f values --set …` renders.

    Raises:
        Refused: The schema or a template refuses the values.
    """
    merged = dict(values or {})
    for expression in sets:
        merged = _merged(merged, helm_python.parse_set_string(expression))
    try:
        with helm_python.Chart.load(chart) as loaded:
            loaded.validate_schema(merged)
            files = loaded.render(merged, name=name, namespace=namespace)
    except (helm_python.HelmValuesError, helm_python.HelmRenderError) as error:
        raise Refused(str(error)) from error
    objects = Rendered()
    for path in sorted(files):
        if path.endswith("NOTES.txt"):
            objects.notes = files[path]
        elif path.endswith((".yaml", ".yml")):
            objects += [item for item in yaml.load_all(files[path], LOADER) if item]
    return objects


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
