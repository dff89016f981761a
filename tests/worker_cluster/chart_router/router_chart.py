"""The router's chart, and short ways to what it renders."""

from __future__ import annotations

from typing import Any

from tests.support.helm import CHARTS, Object, Rendered, render

__all__ = ["CHART", "DATABASE", "ONE", "container", "environment", "rendered"]

CHART = CHARTS / "chart-router"
IMAGE = "image.repository=registry.example/router"
ONE = (IMAGE, "persistence.enabled=true")
"""One router on a SQLite file."""
DATABASE = (IMAGE, "secrets.existingSecret=mine", "secrets.keys={DATABASE_URL,REDIS_URL}")
"""What several routers need."""


def rendered(*sets: str, values: dict[str, Any] | None = None) -> Rendered:
    """Return what the chart makes of these values."""
    return render(CHART, values, *sets, name="router", namespace="gateway")


def container(objects: Rendered) -> Object:
    """Return the router's container."""
    found: Object = objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def environment(objects: Rendered) -> dict[str, Any]:
    """Return the container's variables, those from a Secret as `(Secret, entry)`."""
    found: dict[str, Any] = {}
    for variable in container(objects)["env"]:
        assert variable["name"] not in found, "set twice"
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        found[variable["name"]] = variable["value"] if reference is None else (reference["name"], reference["key"])
    return found
