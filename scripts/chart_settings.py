"""Renders the part of the router chart's schema that the code knows: the names and kinds of settings and secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from router.registry.providers import PROVIDERS
from router.settings import RouterSettings

__all__ = ["OWN", "SECRETS", "router_chart_schema"]

SCHEMA = Path(__file__).parents[1] / "worker_cluster" / "chart-router" / "values.schema.json"
OWN = {
    "ROUTER_HOST",
    "ROUTER_PORT",
    "SQLITE_DB_PATH",
    "ROUTER_REGISTRY_FILE",
    "ROUTER_SETTLE_SECONDS",
    "ROUTER_DRAIN_SECONDS",
}
"""Settings that the chart sets from values of its own."""
SECRETS = {"DATABASE_URL", "REDIS_URL"}
"""Settings that hold a password, besides those that are secrets by their type."""
_KEPT = ("type", "enum", "minimum", "exclusiveMinimum", "maximum", "pattern")


def router_chart_schema(path: Path = SCHEMA) -> str:
    """Return the schema of the router chart's values, with the settings and secrets that the router has today."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    settings: dict[str, Any] = {}
    secrets = {provider.key_env for provider in PROVIDERS}
    for name, described in RouterSettings.model_json_schema(by_alias=True)["properties"].items():
        kind = _kind(described)
        if name in SECRETS or kind.get("format") == "password":
            secrets.add(name)
        elif name not in OWN:
            settings[name] = {key: kind[key] for key in _KEPT if key in kind}
    for provider in PROVIDERS:
        settings[provider.base_url_env] = {"type": "string", "pattern": "^https?://"}
        settings[provider.models_env] = {"type": "string"}
    schema["properties"]["settings"]["properties"] = dict(sorted(settings.items()))
    schema["$defs"]["secretName"]["anyOf"][0]["enum"] = sorted(secrets)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _kind(described: dict[str, Any]) -> dict[str, Any]:
    """Return what a setting is where it is set."""
    kinds: list[dict[str, Any]] = [kind for kind in described.get("anyOf", [described]) if kind.get("type") != "null"]
    return kinds[0]
