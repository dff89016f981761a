"""The router's settings; the only reader of its environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from router.state.redis import redis_address

__all__ = ["RouterSettings", "read_secret"]

_ORIGIN = re.compile(
    r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/\s,:@]+(:(\d+|\*))?|[A-Za-z][\w+.-]*://\[[0-9a-fA-F:]+\](:(\d+|\*))?"
)


class RouterSettings(BaseSettings):
    """Environment variables of the router; frozen."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    sqlite_db_path: Path = Field(
        Path("data/models.db"), validation_alias="SQLITE_DB_PATH", description="Path of the SQLite registry."
    )
    database_url: str | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL URL; replaces the SQLite file where several routers share one registry.",
    )
    redis_url: str = Field(
        "redis://localhost:6379/0",
        validation_alias="REDIS_URL",
        description="Redis (or Valkey) for the cache; its client is the extra `redis`.",
    )
    llmd_endpoint: str | None = Field(
        None,
        validation_alias="LLMD_ENDPOINT",
        description="Base URL of the llm-d Inference Gateway, without `/v1`; unset: no cluster.",
    )
    llmd_api_key: SecretStr | None = Field(
        None,
        validation_alias="LLMD_API_KEY",
        description="Key that the entrance of the cluster asks for, sent as a bearer token; unset: none.",
    )
    llmd_models: str | None = Field(
        None,
        validation_alias="LLMD_MODELS",
        description=(
            "Models that the cluster serves although it does not list them, with commas between them: those of a "
            "cluster that starts without workers, or of further pools."
        ),
    )
    llmd_refresh_seconds: float = Field(
        15.0,
        validation_alias="LLMD_REFRESH_SECONDS",
        gt=0,
        description="Seconds between two looks at what a cluster serves.",
    )
    local_agent_url: str | None = Field(
        "http://127.0.0.1:5000",
        validation_alias="LOCAL_AGENT_URL",
        description="Base URL of a local agent to look for; `off` looks for none.",
    )
    host: str = Field("127.0.0.1", validation_alias="ROUTER_HOST", description="Address to listen on.")
    port: int = Field(8000, validation_alias="ROUTER_PORT", ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(
        1, validation_alias="ROUTER_WORKERS", ge=1, le=256, description="Worker processes; one for each core."
    )
    auth: Literal["auto", "required", "off"] = Field(
        "auto",
        validation_alias="ROUTER_AUTH",
        description=(
            "`auto`: open on loopback until the first key is created; `required`: always a key; "
            "`off`: never a key, also beyond loopback."
        ),
    )
    admin_key: SecretStr | None = Field(
        None, validation_alias="ROUTER_ADMIN_KEY", description="Key of `/admin/v1/*`; unset: these routes are shut."
    )
    agent_token: SecretStr | None = Field(
        None,
        validation_alias="ROUTER_AGENT_TOKEN",
        description="Token that agents register with; unset: only agents on this machine may.",
    )
    registry_file: Path | None = Field(
        None, validation_alias="ROUTER_REGISTRY_FILE", description="Manifest to apply at start."
    )
    cors_origins: str | None = Field(
        None,
        validation_alias="ROUTER_CORS_ORIGINS",
        description=(
            "Web pages that may call from a browser, besides those of this machine: origins such as "
            "`https://chat.example` or `https://*.example:*`, separated by commas; `*`: every page."
        ),
    )
    body_limit: int = Field(
        32 * 1024 * 1024, validation_alias="ROUTER_BODY_LIMIT", ge=1024, description="Largest request body, in bytes."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias="ROUTER_LOG_LEVEL", description="Least level that is logged."
    )
    attempts: int = Field(
        3, validation_alias="ROUTER_ATTEMPTS", ge=1, le=20, description="Attempts that one request may make in all."
    )
    deadline: float = Field(
        600.0, validation_alias="ROUTER_DEADLINE", gt=0, description="Seconds that one request may take in all."
    )
    cold_start_seconds: float = Field(
        120.0,
        validation_alias="ROUTER_COLD_START_SECONDS",
        ge=0,
        description="Seconds that a request waits for a cluster to start where nobody else can answer; 0: not at all.",
    )
    cold_start_requests: int = Field(
        100,
        validation_alias="ROUTER_COLD_START_REQUESTS",
        ge=1,
        description="Requests that may wait for clusters to start at a time, in one worker process.",
    )
    ping_seconds: float = Field(
        15.0,
        validation_alias="ROUTER_PING_SECONDS",
        ge=0,
        description="Seconds of silence after which a stream's client gets a sign of life; 0: none.",
    )
    idempotency_ttl: float = Field(
        86400.0,
        validation_alias="ROUTER_IDEMPOTENCY_TTL",
        ge=0,
        description="Seconds that the answer to an `Idempotency-Key` is kept; 0: the header is ignored.",
    )
    replay_max_bytes: int = Field(
        8 * 1024 * 1024,
        validation_alias="ROUTER_REPLAY_MAX_BYTES",
        ge=1024,
        description="Largest answer to an `Idempotency-Key` that can be given again.",
    )
    resume_seconds: float = Field(
        30.0,
        validation_alias="ROUTER_RESUME_SECONDS",
        ge=0,
        description="Seconds that a stream with an `Idempotency-Key` goes on without its client, which may come back.",
    )
    cache_ttl: float = Field(
        600.0,
        validation_alias="ROUTER_CACHE_TTL",
        ge=0,
        description="Seconds that an answer stays in the cache; 0 turns the cache off.",
    )
    cache_max_bytes: int = Field(
        1024 * 1024, validation_alias="ROUTER_CACHE_MAX_BYTES", ge=0, description="Largest answer that is cached."
    )
    responses_ttl: float = Field(
        86400.0,
        validation_alias="ROUTER_RESPONSES_TTL",
        ge=0,
        description="Seconds that a response is kept for the turns that follow it; 0 keeps none.",
    )
    transport: Literal["httpx", "lean"] = Field(
        "lean",
        validation_alias="ROUTER_TRANSPORT",
        description="HTTP client towards backends: `lean`, our own for HTTP/1.1 without proxies, or `httpx`.",
    )
    http: Literal["direct", "asgi"] = Field(
        "direct",
        validation_alias="ROUTER_HTTP",
        description="How data-plane requests come in: `direct` from the connection, or through `asgi` as all others.",
    )
    redis_budget_ms: float = Field(
        50.0,
        validation_alias="ROUTER_REDIS_BUDGET_MS",
        gt=0,
        description="Milliseconds that a request may wait for Redis.",
    )
    otel_endpoint: str | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        pattern=r"^https?://[^/\s]",
        description="Base URL of an OpenTelemetry collector (OTLP over HTTP) to trace to; unset: no tracing.",
    )
    otel_service_name: str = Field(
        "inference-router", validation_alias="OTEL_SERVICE_NAME", description="The router's name in traces."
    )
    otel_sample_ratio: float = Field(
        1.0,
        validation_alias="OTEL_TRACES_SAMPLER_ARG",
        ge=0,
        le=1,
        description="Share of requests that are traced where the caller's `traceparent` has not decided.",
    )
    settle_seconds: float = Field(
        0.0,
        validation_alias="ROUTER_SETTLE_SECONDS",
        ge=0,
        description=(
            "Seconds after being told to stop in which everything is still answered while `/readyz` says 503, so that "
            "load balancers look elsewhere; 0: new connections are refused at once."
        ),
    )
    drain_seconds: int = Field(
        30, validation_alias="ROUTER_DRAIN_SECONDS", ge=0, description="Seconds that open answers get at shutdown."
    )
    stall_seconds: float = Field(
        30.0,
        validation_alias="ROUTER_STALL_SECONDS",
        gt=0,
        description="Seconds without a sign of life after which one of several worker processes is replaced.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _cors_origins_are_origins(cls, origins: str | None) -> str | None:
        if origins is None:
            return None
        told = [origin.strip().rstrip("/") for origin in origins.split(",") if origin.strip()]
        for origin in told:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin[:80]!r} must be an origin such as https://chat.example, without a path")
        return ",".join(told)

    @field_validator("redis_url")
    @classmethod
    def _redis_url_can_be_read(cls, url: str) -> str:
        # A Redis that is away is no fault, so nothing later would tell a URL that can never be one.
        try:
            redis_address(url)
        except ValueError as error:
            # The reason is not quoted: it may hold a part of the URL, and that a password.
            raise ValueError("must be a URL like redis://host:6379/0") from error
        return url


def read_secret(name: str) -> str | None:
    """Return the value of the variable that a backend names as holding its key, or None."""
    return os.environ.get(name) or None  # noqa: TID251 - this module is the reader of the environment
