"""Renders what the code alone can say: reference pages of settings, errors, metrics, faults and charts, `.env.example`.

`python -m scripts.reference` writes them; with `--check` it only says which are out of step.
"""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from local_agent.metrics import Metrics as AgentMetrics
from local_agent.settings import AgentSettings
from local_agent.supervisor import Status
from local_agent.types import Phase
from router.metrics import RouterMetrics
from router.registry.providers import PROVIDERS, Provider
from router.settings import RouterSettings
from scripts.chart_settings import router_chart_schema
from scripts.chart_values import chart_values_page
from shared import errors
from tests.integration.faults.page import faults_page

__all__ = ["PAGES", "Setting", "main", "settings_of"]

ROOT = Path(__file__).parents[1]
GENERATED = "<!-- Written by `make reference` from the code. Change the code, not this page. -->\n"
SETTINGS_INTRODUCTION = """\
Both services read their settings from environment variables, once, at the start. The make targets that start services
read `.env` first; a variable that is set in the shell wins. A variable that is set but empty counts as unset. A value
that cannot be read stops the start and is named.
"""
PROVIDERS_INTRODUCTION = """\
A provider is enabled by its key alone, `EXTERNAL_<NAME>_KEY`. `EXTERNAL_<NAME>_BASE_URL` replaces its address, and
`EXTERNAL_<NAME>_MODELS` names its models, with commas between them, instead of its own list.

A server of your own (Ollama, LM Studio, llama.cpp, vLLM) is enabled by its address alone, with or without `/v1`; a key
is sent where one is set. On this machine (`localhost`, a loopback address) it is of the tier `local`, anywhere else
`cluster`, and its price is 0.

Azure OpenAI takes both of its addresses: `https://RESOURCE.openai.azure.com/openai/v1`, and the older
`https://RESOURCE.openai.azure.com/openai/deployments/{model}?api-version=VERSION`. It has no list of what is deployed,
so name the deployments: `EXTERNAL_AZURE_MODELS=gpt-4o,my-embeddings`.
"""
ERRORS_INTRODUCTION = """\
`param` names the field at fault, as a path (`messages[0].role`), or is null. 429 and 503 carry `Retry-After` where a
wait is known to help. In a stream that has begun, the error is the last event and no `[DONE]` follows it.

"Next candidate" says whether the router asks the next deployment of its ranking before the caller hears of the
failure.
"""
# Errors whose status or text is not the class's own.
TELLING = {
    "UpstreamUnavailable": (
        "502; a backend's own 503 or 529 is kept",
        "server_error",
        "upstream_unavailable",
    ),
    "UpstreamRejected": ("theirs", "theirs", "theirs"),
    "StreamInterrupted": ("in the stream", "server_error", "stream_interrupted"),
    "AllCandidatesFailed": ("of the most telling attempt", "of that attempt", "all_candidates_failed"),
    "NoCandidate": (
        "503; 400 where only a capability is missing",
        "server_error; invalid_request_error",
        "no_candidate",
    ),
}
BASES = ("ServiceError", "UpstreamError")


# --- settings ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable. `default` is None where it is unset or not fixed."""

    variable: str
    kind: str
    default: str | None
    description: str
    computed: bool = False


def settings_of(settings: type[BaseSettings]) -> list[Setting]:
    """Return the variables that a settings class reads, in its order."""
    prefix = settings.model_config.get("env_prefix", "")
    return [_setting(f"{prefix}{name}".upper(), field) for name, field in settings.model_fields.items()]


def _setting(name: str, field: FieldInfo) -> Setting:
    variable = field.validation_alias if isinstance(field.validation_alias, str) else name
    default = field.default
    computed = field.default_factory is not None
    shown = None if computed or default is None else str(default)
    return Setting(variable, _kind(field.annotation), shown, field.description or "", computed)


def _kind(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, UnionType):
        return _kind(next(argument for argument in arguments if argument is not NoneType))
    if origin is Literal:
        return " \\| ".join(f"`{argument}`" for argument in arguments)
    words = {bool: "true or false", int: "integer", float: "number", Path: "path", str: "text", SecretStr: "secret"}
    return words.get(annotation, str(annotation))


def _rows(settings: Sequence[Setting]) -> Iterator[str]:
    yield "| Variable | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for setting in settings:
        default = f"`{setting.default}`" if setting.default is not None else "computed" if setting.computed else "unset"
        yield f"| `{setting.variable}` | {setting.kind} | {default} | {setting.description} |"


def _place(provider: Provider) -> str:
    if provider.base_url is not None:
        return f"`{provider.base_url}`"
    return "its value" if provider.own else f"`{provider.base_url_env}`, which must be set"


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    providers = [
        f"| `{provider.base_url_env if provider.own else provider.key_env}` | {_place(provider)} |"
        for provider in PROVIDERS
    ]
    parts = [
        GENERATED,
        "# Settings\n",
        SETTINGS_INTRODUCTION,
        "## Router\n",
        *_rows(settings_of(RouterSettings)),
        "\n### Providers\n",
        PROVIDERS_INTRODUCTION,
        "| Enabled by | Base URL |",
        "|---|---|",
        *providers,
        "\n## Local agent\n",
        *_rows(settings_of(AgentSettings)),
    ]
    return "\n".join(parts) + "\n"


def env_example() -> str:
    """Return .env.example: every variable, commented, with its default and one line."""
    lines = [
        "# Copy to .env and uncomment what you change. The make targets that start services read .env;",
        "# variables that are set in the shell win. Never commit .env.",
        "# Written by `make reference` from the settings classes; docs/reference/settings.md says more.",
    ]
    for title, settings in (("Router", RouterSettings), ("Local agent", AgentSettings)):
        lines += ["", f"# --- {title} ---"]
        for setting in settings_of(settings):
            lines += ["", f"# {setting.description.replace('`', '')}", f"# {setting.variable}={setting.default or ''}"]
        if settings is RouterSettings:
            lines += [
                "",
                "# A provider is enabled by its key alone; EXTERNAL_<NAME>_BASE_URL replaces its address, and",
            ]
            lines += [
                "# EXTERNAL_<NAME>_MODELS names models instead of its list. A server of your own needs an address."
            ]
            for provider in PROVIDERS:
                lines += [] if provider.own else [f"# {provider.key_env}="]
                lines += [] if provider.base_url else [f"# {provider.base_url_env}="]
    return "\n".join(lines) + "\n"


# --- errors -----------------------------------------------------------------------------------


def errors_page() -> str:
    """Return docs/reference/errors.md."""
    rows = [_error_row(kind) for kind in _walk(errors.ServiceError) if kind.__name__ not in BASES]
    parts = [
        GENERATED,
        "# Errors\n",
        "Every error of either service, whatever its cause, is OpenAI's object, and all four keys are always there:\n",
        "```json",
        '{"error": {"message": "…", "type": "invalid_request_error", "param": "messages", "code": "invalid_request"}}',
        "```\n",
        ERRORS_INTRODUCTION,
        "| Error | Status | `type` | `code` | Next candidate | Meaning |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(parts) + "\n"


def _walk(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    """Yield the error classes of `shared.errors`, parents first, in the order written."""
    if kind.__module__ == errors.__name__:
        yield kind
    for child in kind.__subclasses__():
        yield from _walk(child)


def _error_row(kind: type[errors.ServiceError]) -> str:
    status, type_, code = TELLING.get(kind.__name__, (str(kind.status), kind.type, str(kind.code)))
    meaning = (kind.__doc__ or "").strip().splitlines()[0]
    again = "yes" if kind.retryable else "no"
    return f"| {kind.__name__} | {status} | {type_} | {code} | {again} | {meaning} |"


# --- metrics ----------------------------------------------------------------------------------


def metrics_page() -> str:
    """Return docs/reference/metrics.md."""
    router_registry = CollectorRegistry()
    router_metrics = RouterMetrics(router_registry)
    idle = Status(Phase.STARTING, 0, 0, "", None, False, None, 0, None, 0, 0, 0, 0)
    agent_metrics = AgentMetrics(lambda: idle)
    parts = [
        GENERATED,
        "# Metrics\n",
        "Both services answer `GET /metrics` in Prometheus' text format. A counter's name ends in `_total`.\n",
        "## Router\n",
        *_metric_rows(router_registry, router_metrics),
        "\n## Local agent\n",
        *_metric_rows(agent_metrics._registry, agent_metrics),
    ]
    return "\n".join(parts) + "\n"


def _metric_rows(registry: CollectorRegistry, holder: object) -> Iterator[str]:
    labels = {
        getattr(metric, "_name", ""): getattr(metric, "_labelnames", ()) for metric in vars(holder).values() if metric
    }
    yield "| Metric | Type | Labels | Meaning |"
    yield "|---|---|---|---|"
    for metric in registry.collect():
        known = labels.get(metric.name) or getattr(metric, "_labelnames", None) or ()
        names = ", ".join(f"`{name}`" for name in known) or "none"
        yield f"| `{_full_name(metric)}` | {metric.type} | {names} | {metric.documentation} |"


def _full_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


# --- writing ----------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/settings.md": settings_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/faults.md": faults_page,
    "docs/reference/chart-values.md": lambda: chart_values_page(GENERATED),
    "worker_cluster/chart-router/values.schema.json": router_chart_schema,
    ".env.example": env_example,
}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the pages, or with `--check` report those that differ; return the exit status."""
    parser = argparse.ArgumentParser(prog="reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of step")
    check = parser.parse_args(arguments).check
    stale = []
    for name, render in PAGES.items():
        path, text = root / name, render()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"out of step with the code, run `make reference`: {name}" if check else f"written: {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
