"""The table of providers: a new one that speaks the OpenAI dialect is a new row and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from router.types import Dialect

__all__ = ["PROVIDERS", "Provider"]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider.

    Attributes:
        name: Its backend's name; `EXTERNAL_<NAME>_KEY` enables it.
        base_url: Where it is; `EXTERNAL_<NAME>_BASE_URL` overrides it.
        prices: Its id in the price library, where that knows it.
        headers: What its list of models wants besides the key.
        key_header: A header that carries the key besides `Authorization`.
        strip: What its model ids begin with in the list and not in requests.
    """

    name: str
    base_url: str
    prices: str | None = None
    dialect: Dialect = "openai"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    key_header: str | None = None
    strip: str = ""

    @property
    def key_env(self) -> str:
        """The variable that holds its key."""
        return f"EXTERNAL_{self.name.upper()}_KEY"

    @property
    def base_url_env(self) -> str:
        """The variable that holds another base URL."""
        return f"EXTERNAL_{self.name.upper()}_BASE_URL"


PROVIDERS = (
    Provider("openai", "https://api.openai.com/v1", "openai"),
    Provider(
        "anthropic",
        "https://api.anthropic.com/v1",
        "anthropic",
        headers=MappingProxyType({"anthropic-version": "2023-06-01"}),
        key_header="x-api-key",
    ),
    Provider("google", "https://generativelanguage.googleapis.com/v1beta/openai", "google", strip="models/"),
    Provider("mistral", "https://api.mistral.ai/v1", "mistral"),
    Provider("groq", "https://api.groq.com/openai/v1", "groq"),
    Provider("xai", "https://api.x.ai/v1", "x-ai"),
    Provider("deepseek", "https://api.deepseek.com/v1", "deepseek"),
    Provider("openrouter", "https://openrouter.ai/api/v1", "openrouter"),
    Provider("together", "https://api.together.xyz/v1", "together"),
    Provider("fireworks", "https://api.fireworks.ai/inference/v1", "fireworks"),
    Provider("cerebras", "https://api.cerebras.ai/v1", "cerebras"),
    Provider("venice", "https://api.venice.ai/api/v1"),
)
"""Every provider that a key alone enables."""
