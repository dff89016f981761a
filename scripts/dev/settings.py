"""Where `make dev` starts things: the services' own variables, read once."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["DevSettings", "inherited_environment"]


class DevSettings(BaseSettings):
    """The services' variables that decide addresses; everything else goes to them untouched."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    redis_url: str = Field("redis://localhost:6379/0", validation_alias="REDIS_URL")
    router_host: str = Field("127.0.0.1", validation_alias="ROUTER_HOST")
    router_port: int = Field(8000, validation_alias="ROUTER_PORT", ge=1, le=65535)
    router_agent_token: str | None = Field(None, validation_alias="ROUTER_AGENT_TOKEN")
    agent_host: str = Field("127.0.0.1", validation_alias="LOCAL_AGENT_HOST")
    agent_port: int = Field(5000, validation_alias="LOCAL_AGENT_PORT", ge=1, le=65535)
    agent_router_url: str | None = Field(None, validation_alias="LOCAL_AGENT_ROUTER_URL")
    agent_token: str | None = Field(None, validation_alias="LOCAL_AGENT_TOKEN")
    agent_url: str | None = Field(None, validation_alias="LOCAL_AGENT_URL")
    folder: Path = Field(Path(".dev"), description="Where logs go.")

    @property
    def router_url(self) -> str:
        """Where this machine reaches the router."""
        return f"http://{_reachable(self.router_host)}:{self.router_port}"

    @property
    def local_agent_url(self) -> str:
        """Where this machine reaches the agent."""
        return f"http://{_reachable(self.agent_host)}:{self.agent_port}"

    def environment(self, redis_url: str) -> dict[str, str]:
        """Return the environment of both services; what the user has set stays as it is.

        Args:
            redis_url: Where the Redis is that they are to use.
        """
        # An agent that announces itself to this router and is looked for as well would count twice.
        announced = self.agent_router_url in (None, self.router_url)
        ours = {
            "REDIS_URL": redis_url,
            "LOCAL_AGENT_URL": self.agent_url or ("off" if announced else self.local_agent_url),
            "LOCAL_AGENT_ROUTER_URL": self.agent_router_url or self.router_url,
        }
        token = self.agent_token or self.router_agent_token
        if token:
            ours["LOCAL_AGENT_TOKEN"] = token
        return {**inherited_environment(), "PYTHONUNBUFFERED": "1", **ours}


def _reachable(host: str) -> str:
    """Return an address to connect to for an address to listen on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - replaced here, not bound
    return f"[{host}]" if ":" in host else host


def inherited_environment() -> dict[str, str]:
    """Return this process's environment, for the children."""
    return dict(os.environ)  # noqa: TID251 - this module is the reader of the environment
