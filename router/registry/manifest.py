"""The declarative file: its models, and reading and writing it. Nothing here touches the registry."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from router.registry.references import cross_errors, did_you_mean
from router.registry.yamlmarks import Document, YAMLProblem, read_yaml
from router.registry.yamlmarks import Path as Place
from router.types import Dialect, Privacy, Tier

__all__ = [
    "BackendSpec",
    "DeploymentSpec",
    "InvalidManifest",
    "Manifest",
    "ModelSpec",
    "PolicySpec",
    "dump_manifest",
    "load_manifest",
    "manifest_schema",
    "parse_manifest",
    "plain",
    "plain_value",
    "web_address",
]


_QUERY = re.compile(r"(api-version=[A-Za-z0-9.-]+)?")


def web_address(url: str) -> str:
    """Return a base URL without its last slash.

    Raises:
        ValueError: It is no http(s) URL, or holds credentials.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be a URL like https://host/v1")
    if "@" in parts.netloc:
        raise ValueError("must not hold credentials; name a variable in api_key_env")
    if parts.fragment or not _QUERY.fullmatch(parts.query):
        # Some put keys into queries; a version is the only thing that has to be in one.
        raise ValueError("must not have a query other than api-version, or a fragment")
    return url.rstrip("/")


Name = Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=256)]
BackendName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=100)]
KeyHeader = Annotated[HeaderName, AfterValidator(str.lower)]
OwnEndpoint = Literal["responses", "messages", "count_tokens"]
BaseURL = Annotated[str, Field(json_schema_extra={"format": "uri"}), AfterValidator(web_address)]
USD = Annotated[Decimal, Field(ge=0, max_digits=30)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Spec(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TimeoutsSpec(_Spec):
    """Limits of one attempt, in seconds; each fires alone."""

    connect: Seconds | None = None
    first_token: Seconds | None = None
    idle: Seconds | None = None
    total: Seconds | None = None


class BreakerSpec(_Spec):
    """When the deployments of a backend are left alone: after `failures` in a row, for `cooldown` seconds."""

    enabled: bool | None = None
    failures: Count | None = None
    cooldown: Seconds | None = None


class BackendSpec(_Spec):
    """A server that speaks one dialect."""

    name: BackendName = Field(description="Unique.")
    dialect: Dialect
    base_url: BaseURL = Field(description="Where it is, without the endpoint's own path; http or https.")
    tier: Tier = Field(description="Where prompts go: this site's own machines, its cluster, or outside.")
    api_key_env: Variable | None = Field(None, description="Name of the variable that holds the key; never the key.")
    key_header: KeyHeader | None = Field(None, description="Header that the key goes in; left out: the dialect's own.")
    endpoints: tuple[OwnEndpoint, ...] = Field((), description="Endpoints that it has itself, besides the usual ones.")
    discover: bool = Field(
        False, description="Whether it is asked what it serves, as the cluster at LLMD_ENDPOINT is; openai only."
    )
    timeouts: TimeoutsSpec = TimeoutsSpec()
    breaker: BreakerSpec = BreakerSpec()
    forward_headers: tuple[HeaderName, ...] = Field((), description="Client headers let through beyond the safe set.")


class PriceSpec(_Spec):
    """USD per million tokens; what is left out is unknown, which is not 0."""

    input: USD | None = None
    cached_input: USD | None = None
    output: USD | None = None


class LimitsSpec(_Spec):
    """What a deployment takes: requests at a time, requests and tokens a minute."""

    max_concurrency: Count | None = None
    rpm: Count | None = None
    tpm: Count | None = None


class DeploymentSpec(_Spec):
    """A place that serves the model."""

    backend: BackendName = Field(description="The name of a backend of this file.")
    upstream_model: Name | None = Field(None, description="What the backend calls the model; left out: the model's id.")
    price: PriceSpec = PriceSpec()
    limits: LimitsSpec = LimitsSpec()
    weight: Weight = Field(1.0, description="Share among equals.")
    priority: int = Field(0, description="Lower first; equal priorities are balanced by the scorers and the weight.")


class ModelSpec(_Spec):
    """What clients ask for."""

    id: Name
    aliases: tuple[Name, ...] = ()
    context_length: Count | None = None
    max_output_tokens: Count | None = None
    capabilities: tuple[Name, ...] = Field(
        (),
        description="chat, completions, embeddings, responses, messages, tools, json_schema, vision, audio, logprobs, "
        "reasoning, prefill, …; left out: unknown, and nothing is ruled out.",
    )
    quality: dict[str, Share] = Field(
        {}, description="Quality by area, 0 to 1; `overall` counts where no area is known."
    )
    deployments: tuple[DeploymentSpec, ...] = Field(
        (), description="Left out: this entry adds its facts to a model of this id that discovery finds."
    )
    fallbacks: tuple[Name, ...] = Field(
        (), description="Models of this file, tried in order when every deployment here has failed."
    )


class ConstraintsSpec(_Spec):
    """Hard limits; a request's own wish may only tighten them."""

    max_cost_usd: USD | None = None
    first_token_ms: Count | None = None
    privacy: Privacy = "any"


class HedgeSpec(_Spec):
    """A second request elsewhere for a stream that is slow to begin; whichever answers first is taken."""

    budget: PositiveShare = Field(0.05, description="Second requests for each request, at most.")
    after_ms: Count | None = Field(
        None,
        description="How long to wait for the first output; left out: as long as 95 of 100 streams of that "
        "deployment take, once it has answered 20.",
    )


class PolicySpec(_Spec):
    """A virtual model: which models may answer and what counts how much."""

    name: Name
    candidates: tuple[Name, ...] = Field(("*",), description="Model ids or globs.")
    weights: dict[str, Weight] = Field({}, description="What each scorer counts: quality, cost, latency, affinity.")
    constraints: ConstraintsSpec = ConstraintsSpec()
    hedge: HedgeSpec | None = Field(None, description="Left out: nobody is asked twice. `{}`: by the defaults.")


class Manifest(_Spec):
    """The whole declared state of a registry."""

    backends: tuple[BackendSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    policies: tuple[PolicySpec, ...] = ()


_SHAPES: dict[tuple[str, ...], type[_Spec]] = {
    (): Manifest,
    ("backends",): BackendSpec,
    ("backends", "timeouts"): TimeoutsSpec,
    ("backends", "breaker"): BreakerSpec,
    ("models",): ModelSpec,
    ("models", "deployments"): DeploymentSpec,
    ("models", "deployments", "price"): PriceSpec,
    ("models", "deployments", "limits"): LimitsSpec,
    ("policies",): PolicySpec,
    ("policies", "constraints"): ConstraintsSpec,
    ("policies", "hedge"): HedgeSpec,
}


class InvalidManifest(Exception):
    """A manifest that cannot be applied.

    Args:
        problems: One line for each, with file, line, field and what is wrong.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest file.

    Raises:
        InvalidManifest: It cannot be read, or is wrong; names every error.
    """
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise InvalidManifest([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise InvalidManifest([f"{path}: is not UTF-8 text"]) from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, file: str = "manifest") -> Manifest:
    """Read a manifest from YAML or JSON text.

    Args:
        text: The document.
        file: What error messages call it.

    Raises:
        InvalidManifest: It is wrong; names every error with its line and field.
    """
    if not text.strip():
        # A lost pipe or a cut file would otherwise take every declaration away.
        raise InvalidManifest([f"{file}: is empty; to declare nothing write `backends: []`"])
    try:
        document = read_yaml(text)
    except YAMLProblem as error:
        raise InvalidManifest([_problem(file, error.line, error.path, error.message)]) from error
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        raise InvalidManifest([_problem(file, 1, (), "must be a mapping with backends, models and policies")])
    manifest: Manifest | None = None
    found: list[tuple[Place, str]] = []
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        found += [_explain(dict(item)) for item in error.errors(include_url=False, include_input=False)]
    found += cross_errors(value)
    if found or manifest is None:
        raise InvalidManifest(_sorted_problems(file, document, found))
    return manifest


def _sorted_problems(file: str, document: Document, found: list[tuple[Place, str]]) -> list[str]:
    placed = {(document.line(path), path, message) for path, message in found}
    ordered = sorted(placed, key=lambda item: (item[0], [str(step) for step in item[1]], item[2]))
    return [_problem(file, line, path, message) for line, path, message in ordered]


def _problem(file: str, line: int, path: Place, message: str) -> str:
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    return f"{file}:{line}: {field}: {message}" if field else f"{file}:{line}: {message}"


def _explain(item: dict[str, Any]) -> tuple[Place, str]:
    """Return the place of a validation error, and what to say of it."""
    path: Place = tuple(item["loc"])
    kind = item["type"]
    if kind == "extra_forbidden":
        shape = _SHAPES.get(tuple(step for step in path[:-1] if isinstance(step, str)))
        return path, "unknown key" + did_you_mean(str(path[-1]), shape.model_fields if shape else ())
    if kind == "missing":
        return path, "is missing"
    if kind == "value_error":
        return path, str(item["ctx"]["error"])
    if kind in ("tuple_type", "dict_type", "model_type"):
        return path, "must be a list" if kind == "tuple_type" else "must be a mapping"
    return path, _lower_first(re.sub(r"^(Input|String|Value|Decimal input) should", "must", item["msg"]))


def _lower_first(message: str) -> str:
    return message[:1].lower() + message[1:]


# --- writing ----------------------------------------------------------------------------------------


def plain(manifest: BaseModel) -> dict[str, Any]:
    """Return a manifest, or a part of it, as plain values without what is left at its default."""
    return {name: plain_value(value) for name, value in manifest.model_dump(exclude_defaults=True).items()}


def plain_value(value: Any) -> Any:
    """Return plain JSON values; money is a number where that is exact, else text."""
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, Decimal):
        number = float(value)
        return number if Decimal(repr(number)) == value else format(value, "f")
    return value


def dump_manifest(manifest: Manifest) -> str:
    """Return a manifest as YAML that reads back as the same manifest."""
    value = plain(manifest)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120) if value else "{}\n"


def manifest_schema() -> str:
    """Return the JSON Schema of the file, as it is published."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="validation"),
        "title": "Registry manifest of the inference router",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
