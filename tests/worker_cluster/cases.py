"""The charts, and what each of their `ci/*-values.yaml` renders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import yaml

from tests.support.helm import CHARTS, Object, Rendered, case_values, render

__all__ = ["CASES", "CHART", "Case", "Pod", "pods", "strings"]

CHART = CHARTS / "chart"


class Case(NamedTuple):
    """One of a chart's `ci/*-values.yaml`."""

    chart: str
    name: str

    @property
    def values(self) -> dict[str, Any]:
        """What the file says."""
        return case_values(CHARTS / self.chart, self.name)

    @property
    def named(self) -> set[str]:
        """All that the values say, or leave at the chart's default."""
        defaults = yaml.safe_load((CHARTS / self.chart / "values.yaml").read_text(encoding="utf-8"))
        return {*strings(defaults), *strings(self.values)}

    @property
    def objects(self) -> Rendered:
        """What the chart makes of it; the same objects each time, so do not change them."""
        return _rendered(self)


@cache
def _rendered(case: Case) -> Rendered:
    return render(CHARTS / case.chart, case.values)


CASES = tuple(
    Case(path.parents[1].name, path.name.removesuffix("-values.yaml"))
    for path in sorted(CHARTS.glob("*/ci/*-values.yaml"))
)


class Pod(NamedTuple):
    """What an object starts: its labels and its spec."""

    owner: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Object]:
        """All containers, those that run first too."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def servers(self) -> list[Object]:
        """Containers that stay and listen."""
        stays = [item for item in self.spec.get("initContainers", ()) if item.get("restartPolicy") == "Always"]
        return [item for item in (*stays, *self.spec["containers"]) if item.get("ports")]


def pods(objects: Rendered) -> list[Pod]:
    """Return the pods of a rendering, those of Deployments and Jobs too."""
    found = []
    for item in objects:
        template = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
        if isinstance(template, dict) and "containers" in template.get("spec", {}):
            labels = template["metadata"].get("labels", {})
            found.append(Pod(f"{item['kind']}/{item['metadata']['name']}", labels, template["spec"]))
    return found


def strings(value: Any) -> Iterator[str]:
    """Yield every string within values or objects, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)
