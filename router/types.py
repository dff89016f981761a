"""The router's nouns: frozen values without behaviour beyond arithmetic on themselves.

Those that every request makes anew are msgspec structs, which cost a tenth of a frozen dataclass to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct
from msgspec import field as defaulted

from shared.types import Usage

__all__ = [
    "Attempt",
    "Backend",
    "Breaker",
    "CacheState",
    "Caller",
    "Candidate",
    "Chunk",
    "Completion",
    "Constraints",
    "Decision",
    "Deployment",
    "DeploymentHealth",
    "Dialect",
    "Endpoint",
    "Event",
    "Features",
    "Hedge",
    "InferenceRequest",
    "Limits",
    "Model",
    "Outcome",
    "Policy",
    "Price",
    "Privacy",
    "Rejection",
    "Tier",
    "Timeouts",
    "Usage",
    "Wishes",
]

Dialect = Literal["openai", "anthropic", "gemini", "local_agent"]
Endpoint = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "count_tokens",
    "audio",
    "images",
    "moderations",
    "rerank",
]
Tier = Literal["local", "cluster", "external"]
Privacy = Literal["local", "cluster", "any"]
CacheState = Literal["hit", "miss", "off"]
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one attempt, in seconds; each fires alone."""

    connect: float = 5.0
    first_token: float = 120.0
    idle: float = 60.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a deployment is left alone: after `failures` in a row, for `cooldown` seconds."""

    enabled: bool = True
    failures: int = 5
    cooldown: float = 10.0


@dataclass(frozen=True, slots=True)
class Backend:
    """A server that speaks one dialect. Secrets are named (`api_key_env`), never held.

    `accepts_messages` matters to the `local_agent` dialect only: such an agent gets the
    conversation as `messages`, any other the documented payload alone. `stale` marks an agent
    that has missed three heartbeats.
    """

    name: str
    dialect: Dialect
    base_url: str
    tier: Tier
    api_key_env: str | None = None
    timeouts: Timeouts = Timeouts()
    breaker: Breaker = Breaker()
    forward_headers: tuple[str, ...] = ()
    accepts_messages: bool = False
    stale: bool = False
    key_header: str | None = None
    """The header that its key goes in, in lower case; None: where its dialect puts it."""
    endpoints: frozenset[str] = frozenset()
    """Those that it has itself, of those that not every server of its dialect has."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; None is unknown, which is never the same as 0."""

    input: Decimal | None = None
    cached_input: Decimal | None = None
    output: Decimal | None = None

    def cost(self, usage: Usage) -> Decimal | None:
        """Return what `usage` costs in USD, or None where a price that it needs is unknown.

        Cached prompt tokens without a price of their own cost as much as others.
        """
        if self.input is None or (self.output is None and usage.completion_tokens):
            return None
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.prompt_tokens - usage.cached_tokens
        output = self.output or 0  # embeddings have none, and often no price for it
        total = fresh * self.input + usage.cached_tokens * cached + usage.completion_tokens * output
        return total / _MILLION


@dataclass(frozen=True, slots=True)
class Limits:
    """What a deployment takes: requests at a time, requests and tokens a minute."""

    max_concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A place that serves a model. `id` is unique: `model@backend`, or with `/upstream_model`."""

    id: str
    model: str
    backend: Backend
    upstream_model: str
    price: Price = Price()
    limits: Limits = Limits()
    weight: float = 1.0
    priority: int = 0
    max_output_tokens: int | None = None
    """The most that its model writes, where that is known."""


@dataclass(frozen=True, slots=True)
class Model:
    """What clients ask for. Unknown facts are None or empty and never exclude a deployment."""

    id: str
    deployments: tuple[Deployment, ...]
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()
    quality: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    fallbacks: tuple[str, ...] = ()
    created: int = 0
    """Unix seconds at which the registry learned of the model."""
    parent: str | None = None  # that it is an adapter (LoRA) of


@dataclass(frozen=True, slots=True)
class Constraints:
    """Hard limits of a policy; a request's own wish may only tighten them."""

    max_cost_usd: Decimal | None = None
    first_token_ms: int | None = None
    privacy: Privacy = "any"


@dataclass(frozen=True, slots=True)
class Hedge:
    """When a stream that is slow to begin is asked for a second time, elsewhere."""

    budget: float = 0.05
    """Second requests for each request, at most."""
    after_ms: int | None = None
    """How long to wait for the first output; None: as long as 95 of 100 streams of that deployment take."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A virtual model: which models may answer (ids or globs) and what counts how much."""

    name: str
    candidates: tuple[str, ...] = ("*",)
    weights: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    constraints: Constraints = Constraints()
    hedge: Hedge | None = None
    """None: nobody is asked twice."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `id` is the key's id (`anonymous` where the registry holds no key)."""

    id: str
    name: str
    models: tuple[str, ...] = ("*",)
    """Globs of the models and policies this caller may use."""
    objective: str | None = None  # the InferenceObjective that a cluster's scheduler is told


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller may ask of the router, by `x-router-*` headers or the body's `router` object."""

    policy: str | None = None
    privacy: Privacy = "any"
    max_cost_usd: Decimal | None = None
    deadline_ms: int | None = None
    first_token_ms: int | None = None
    fallback: bool = True
    cache: Literal["on", "off", "refresh"] | None = None
    session: str | None = None


class InferenceRequest(Struct, frozen=True):
    """One request, parsed once. `body` holds the client's own bytes.

    `spans` maps each top-level field of the body to the position of its JSON value in `body`.
    """

    id: str
    endpoint: Endpoint
    model: str
    stream: bool
    body: bytes
    spans: Mapping[str, tuple[int, int]]
    caller: Caller
    wishes: Wishes = Wishes()
    headers: Mapping[str, str] = defaulted(default_factory=lambda: _EMPTY)
    """The client's headers, lower-case names; adapters forward only what is safe."""
    usage_asked: bool = False
    """Whether the client asked a stream for its usage chunk."""
    deterministic: bool = False
    """Temperature 0 and a single choice: the same request has the same answer."""
    max_tokens: int | None = None
    choices: int = 1
    text_bytes: int = 0
    """Length of the prompt's text as written, without images and other attachments."""
    attachments: int = 0
    """Images, audio and files in the prompt."""
    needs: frozenset[str] = frozenset({"chat"})
    """Capabilities without which a deployment cannot serve this request."""
    path: str = ""
    """Where it goes behind the backend's base URL, for an endpoint that has several places: `/audio/speech`."""
    content_type: str = "application/json"
    """The body's own, where it may be something else than JSON."""
    changes: tuple[str, ...] = ()
    """What was dropped or altered on the way to this form of the request, each as `FIELD WHAT`: `seed dropped`."""
    pin: str | None = None
    """The id of the only deployment that may answer: it holds what the request refers to."""
    carried: bool = False
    """Whether the router put it into the words of chat, so that a backend's own spelling may be chosen."""
    longest_text_bytes: int | None = None
    """Length of the longest prompt where there may be several, each with a context of its own."""


class Features(Struct, frozen=True):
    """All that routing may look at: plain values, taken from the request once."""

    needs: frozenset[str]
    prompt_tokens: int
    """An estimate, about four bytes of text a token."""
    prompt_tokens_least: int
    """A lower bound: no known tokenizer gets below it on ordinary text."""
    max_tokens: int | None
    stream: bool
    choices: int = 1
    privacy: Privacy = "any"
    max_cost_usd: Decimal | None = None
    first_token_ms: int | None = None
    session: str | None = None
    pin: str | None = None
    """The only deployment that may answer."""


class DeploymentHealth(Struct, frozen=True):
    """What is known of a deployment at one moment."""

    available: bool = True
    reason: str = ""
    in_flight: int = 0
    first_token_ms: float | None = None
    """Moving average of the time to the first token; None before the first answer."""
    failure_rate: float = 0.0


class Candidate(Struct, frozen=True):
    """A deployment that may serve the request, with what the scorers say (each in [0, 1])."""

    model: Model
    deployment: Deployment
    score: float = 0.0
    scores: Mapping[str, float] = defaulted(default_factory=lambda: _EMPTY)
    estimated_cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A deployment that must not serve the request, and why.

    `filter` names the filter; `reason` is a sentence for people.
    """

    deployment: str
    filter: str
    reason: str


class Decision(Struct, frozen=True):
    """The ranking for one request: who may answer, in order, who may not, and from what inputs."""

    id: str
    asked: str
    policy: str | None
    ranking: Iterable[Candidate]
    """In the order to try them; false where there is none."""
    rejections: tuple[Rejection, ...]
    features: Features
    seed: int
    catalog_version: int


class Chunk(Struct, frozen=True):
    """A piece of a stream: one or several whole SSE events, `raw` as the client gets them.

    `output` is True once it carries output (text, a tool call, a refusal, …): the commit point.
    `usage` and `finish_reason` are set where an event carries them; `done` where the last one is `[DONE]`.
    """

    raw: bytes
    output: bool = False
    usage: Usage | None = None
    finish_reason: str | None = None
    done: bool = False


class Completion(Struct, frozen=True):
    """A whole answer: the body as the client gets it, JSON unless `content_type` says otherwise."""

    body: bytes
    usage: Usage | None = None
    finish_reason: str | None = None
    content_type: bytes = b"application/json"


Event = Chunk | Completion


class Attempt(Struct, frozen=True):
    """One try at one deployment; `error` is an error code, None where it answered."""

    deployment: str
    started_ms: float
    """Milliseconds since the request came in."""
    duration_ms: float
    error: str | None = None


class Outcome(Struct, frozen=True):
    """How a request ended: what is billed, written, counted and logged, once."""

    request_id: str
    decision_id: str | None
    caller: Caller
    endpoint: str
    asked: str
    policy: str | None
    deployment: Deployment | None
    status: int
    error: str | None
    """An error code, `client_disconnected`, or None."""
    stream: bool
    cache: CacheState
    usage: Usage | None
    cost_usd: Decimal | None
    attempts: tuple[Attempt, ...]
    first_token_ms: float | None
    duration_ms: float
    overhead_ms: float
    """Time spent in the router itself before the first byte went upstream."""
