"""The agent's settings; nothing else in the agent reads the environment."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from local_agent.models import DEFAULT_MODEL, UnknownModel, find

__all__ = ["AgentSettings", "worker_environment"]


def _threads() -> int:
    return max(1, (os.cpu_count() or 2) - 1)


class AgentSettings(BaseSettings):
    """Settings of the local agent, each from the environment variable `LOCAL_AGENT_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="LOCAL_AGENT_", frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(5000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        DEFAULT_MODEL,
        description="Model to serve. Where it cannot be served (no MPS or CUDA, too little memory, no weights), "
        "the embedded `local_smollm2-135m-instruct` is served instead, under its own name.",
    )
    router_url: str | None = Field(None, description="Router to announce this agent to; unset: announce to nobody.")
    token: SecretStr | None = Field(None, description="Bearer token that the router expects from agents.")
    public_url: str | None = Field(
        None, description="URL under which the router reaches this agent. Default: made of the address and port."
    )
    name: str = Field(
        default_factory=socket.gethostname, description="Name of this agent in the router. Default: the host's name."
    )
    device: Literal["auto", "mps", "cuda", "cpu"] = Field(
        "auto", description="Device to serve on; `auto` takes MPS, then CUDA, then the CPU."
    )
    threads: int = Field(
        default_factory=_threads, ge=1, description="CPU threads of the engine. Default: all cores but one."
    )
    cache_dir: Path = Field(
        Path("~/.cache/inference-router"), description="Where downloaded and converted models are kept."
    )
    hub_token: SecretStr | None = Field(None, description="Hugging Face token, for weights behind an agreement.")
    context_length: int | None = Field(
        None, ge=32, description="Context in tokens. Default: the model's own from the catalogue."
    )
    max_running: int = Field(4, ge=1, le=64, description="Generations that run at a time, taking turns.")
    queue_limit: int = Field(
        32, ge=0, description="Requests that may wait for a turn; one more is refused with 503 and Retry-After."
    )
    body_limit: int = Field(4 * 1024 * 1024, ge=1024, description="Largest request body in bytes.")
    stall_timeout_s: float = Field(
        30.0, gt=0, description="Seconds without a sign of life after which a generating worker is killed and replaced."
    )
    load_timeout_s: float = Field(
        600.0, gt=0, description="Seconds without progress after which a loading worker is killed and replaced."
    )
    shutdown_grace_s: float = Field(
        5.0, ge=0, description="Seconds that running answers get to end after SIGTERM or SIGINT."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return find(value).id
        except UnknownModel as error:
            raise ValueError(str(error)) from error

    @field_validator("cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


def worker_environment() -> dict[str, str]:
    """Return the environment of the worker process: ours, with safe defaults for Metal's allocator.

    Torch's own default lets MPS take 1.7 times the working set, which swaps the whole machine.
    """
    defaults = {
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0",
        "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return defaults | dict(os.environ)  # noqa: TID251 - this is the settings module
