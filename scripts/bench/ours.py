"""This router as gateways: with everything on, and variants of it that differ in one thing."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.settings import RouterSettings
from scripts.bench.gateways import NO_KEY, Absent, Gateway
from scripts.bench.processes import clean_environment, free_port
from scripts.bench.workloads import MODEL, WORKLOADS

__all__ = ["ROOT", "VARIANTS", "Registry", "Variant", "insert_keys", "manifest", "prepare"]

ROOT = Path(__file__).parents[2]
POLICY = "bench-policy"
_BACKENDS = 100
_CLI = "import sys; from router.cli import main; sys.exit(main())"
_EVERYTHING = frozenset(WORKLOADS)
_MAIN = frozenset({"conns-64"})
_PATHS = frozenset({"conns-64", "streams-20ms"})


@dataclass(frozen=True, slots=True)
class Registry:
    """What a router's registry holds.

    Args:
        models: Models; the first one is what the workloads ask for.
        deployments: Deployments of each model, all of them the mock.
        keys: API keys; 0: the router is open.
        limits: Whether deployments declare limits (high enough never to bite).
    """

    models: int = 1
    deployments: int = 100
    keys: int = 10
    limits: bool = True


@dataclass(frozen=True, slots=True)
class Variant:
    """The router under one configuration.

    Args:
        name: What it is called in results.
        remark: What is different about it.
        registry: What its registry holds.
        settings: Its settings, besides address, registry and Redis.
        only: The workloads that it is measured with.
        alone: How often it is started alone.
    """

    name: str
    remark: str
    registry: Registry = Registry()
    settings: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[str] = _MAIN
    alone: int = 0


VARIANTS = (
    Variant(
        "router",
        "everything on: keys checked, 100 deployments with limits, usage rows, metrics, access log, cache",
        only=_EVERYTHING,
        alone=3,
    ),
    Variant(
        "router-off",
        "what can be turned off is: no keys, one deployment without limits, no access log, no cache",
        Registry(deployments=1, keys=0, limits=False),
        {"ROUTER_AUTH": "off", "ROUTER_LOG_LEVEL": "error", "ROUTER_CACHE_TTL": "0"},
        only=_PATHS,
    ),
    Variant("router-10k", "10,000 deployments: 100 models of 100", Registry(models=100)),
    Variant("router-10k-one", "10,000 deployments of one model", Registry(deployments=10_000)),
    Variant("router-1m-keys", "1,000,000 keys", Registry(keys=1_000_000)),
    Variant("router-httpx", "upstream client httpx", settings={"ROUTER_TRANSPORT": "httpx"}, only=_PATHS),
    Variant("router-lean", "upstream client of our own", settings={"ROUTER_TRANSPORT": "lean"}, only=_PATHS),
    Variant("router-asgi", "data plane through ASGI", settings={"ROUTER_HTTP": "asgi"}, only=_PATHS),
    Variant(
        "router-direct", "data plane straight from the connection", settings={"ROUTER_HTTP": "direct"}, only=_PATHS
    ),
)


def prepare(variant: Variant, folder: Path, mock_port: int, redis_url: str) -> Gateway | Absent:
    """Make a variant's registry in a fresh folder and return it as a gateway.

    Args:
        variant: Which.
        folder: Where its registry goes; must not exist.
        mock_port: Where the mock listens.
        redis_url: Its Redis.
    """
    why = _pointless(variant.settings)
    if why is not None:
        return Absent(variant.name, why)
    folder.mkdir(parents=True)
    port = free_port()
    environment = clean_environment(
        {
            "SQLITE_DB_PATH": str(folder / "models.db"),
            "REDIS_URL": redis_url,
            "LOCAL_AGENT_URL": "off",
            "ROUTER_PORT": str(port),
            "ROUTER_WORKERS": "1",
            **variant.settings,
        }
    )
    declared = folder / "manifest.json"
    declared.write_text(json.dumps(manifest(variant.registry, mock_port)), encoding="utf-8")
    _routerctl(environment, "apply", "-f", str(declared))
    key = _make_keys(environment, folder / "models.db", variant.registry.keys)
    return Gateway(
        variant.name,
        port,
        command=(sys.executable, "-m", "router"),
        environment=environment,
        folder=ROOT,
        version=_version(),
        remark=variant.remark,
        key=key or NO_KEY,
        only=variant.only,
        alone=variant.alone,
        patience=120.0,
    )


def manifest(registry: Registry, mock_port: int) -> dict[str, Any]:
    """Return a registry's manifest; it is JSON, because a YAML of this size takes long to read.

    A hundred backends at most: more deployments are several models of one backend, as far as it is told.
    """
    url = f"http://127.0.0.1:{mock_port}/v1"
    count = min(registry.deployments, _BACKENDS)
    limits = {"limits": {"max_concurrency": 1_000_000, "rpm": 1_000_000_000}} if registry.limits else {}
    return {
        "backends": [
            {"name": f"mock-{n:05d}", "dialect": "openai", "base_url": url, "tier": "cluster"} for n in range(count)
        ],
        "models": [
            {
                "id": MODEL if m == 0 else f"other-model-{m:05d}",
                "context_length": 10_000_000,  # holds the largest body
                "deployments": [
                    # Prices differ, so that there is something to decide.
                    {
                        "backend": f"mock-{n % _BACKENDS:05d}",
                        "price": {"input": 0.1 + n / 1000, "output": 0.5},
                        **({"upstream_model": f"{MODEL}-{n // _BACKENDS}"} if registry.deployments > _BACKENDS else {}),
                        **limits,
                    }
                    for n in range(registry.deployments)
                ],
            }
            for m in range(registry.models)
        ],
        "policies": [{"name": POLICY, "candidates": ["*"]}],
    }


def _pointless(settings: Mapping[str, str]) -> str | None:
    """Say why a variant would measure the same as another, or nothing."""
    known = {str(field.validation_alias): field for field in RouterSettings.model_fields.values()}
    for name, value in settings.items():
        if name not in known:
            return f"this router has no setting {name}"
        # A variant of one setting is there for the value that is not the default.
        if len(settings) == 1 and str(known[name].default) == value:
            return f"{name}={value} is the default"
    return None


def _routerctl(environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-c", _CLI, *arguments]
    reply = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if reply.returncode != 0:
        raise RuntimeError(f"routerctl {arguments[0]} failed: {reply.stderr.strip()}")
    return reply.stdout


def _make_keys(environment: Mapping[str, str], database: Path, count: int) -> str | None:
    """Make so many keys and return one of them, which is in the middle of the table."""
    if count == 0:
        return None
    insert_keys(database, (f"sk-router-bench-{n:027d}-before" for n in range(count // 2)))
    key = json.loads(_routerctl(environment, "keys", "create", "--name", "bench", "--json"))["key"]
    insert_keys(database, (f"sk-router-bench-{n:027d}-after" for n in range(count - count // 2 - 1)))
    return str(key)


def insert_keys(database: Path, keys: Iterable[str]) -> None:
    """Put keys into a registry that no router is using, all at once: a million by `routerctl` would take days."""

    def rows() -> Iterator[tuple[str, str, str, str, str, int]]:
        for key in keys:
            digest = hashlib.sha256(key.encode()).hexdigest()
            yield f"key_{digest[:24]}", "bench", digest, key[:16], '["*"]', 1_760_000_000_000

    connection = sqlite3.connect(database)
    try:
        with connection:
            connection.executemany(
                "INSERT INTO api_keys (id, name, sha256, prefix, models, created_at) VALUES (?, ?, ?, ?, ?, ?)", rows()
            )
    finally:
        connection.close()


def _version() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return reply.stdout.strip() or "not in git"
