"""The table of providers: a new one that speaks a known dialect is a new row and nothing else."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from router.types import Dialect, Tier

__all__ = ["PROVIDERS", "Provider"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider, or one kind of server that people run themselves.

    Attributes:
        name: Its backend's name, and the middle of its variables' names.
        base_url: Where it is; None: wherever `EXTERNAL_<NAME>_BASE_URL` says, which then enables it.
        prices: Its id in the price library, where that knows it.
        dialect: What it speaks.
        headers: What its list of models wants besides the key.
        key_header: The header that its key goes in; None: `Authorization`, as a bearer token.
        strip: What its model ids begin with in the list and not in requests.
        endpoints: Those that it has itself, besides the usual ones.
        models: Its models, where it has no list of them.
        listing: Where its list of models is, behind the base URL; None: it has none that tells what it serves.
        own: Whether people run it themselves: it needs no key, and what it answers costs nothing by the token.
    """

    name: str
    base_url: str | None = None
    prices: str | None = None
    dialect: Dialect = "openai"
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    key_header: str | None = None
    strip: str = ""
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    listing: str | None = "/models"
    own: bool = False

    @property
    def key_env(self) -> str:
        """The variable that holds its key."""
        return f"EXTERNAL_{self.name.upper()}_KEY"

    @property
    def base_url_env(self) -> str:
        """The variable that holds another base URL."""
        return f"EXTERNAL_{self.name.upper()}_BASE_URL"

    @property
    def models_env(self) -> str:
        """The variable that names models, with commas between them, instead of its list."""
        return f"EXTERNAL_{self.name.upper()}_MODELS"

    def address(self, url: str) -> str:
        """Return a base URL as requests need it: a server of one's own may be named without its `/v1`."""
        url = url.rstrip("/")
        return f"{url}/v1" if self.own and not urlsplit(url).path else url

    def tier(self, url: str) -> Tier:
        """Return where prompts to an address go: a server of one's own is `local` on this machine, else `cluster`."""
        if not self.own:
            return "external"
        host = urlsplit(url).hostname or ""
        try:
            here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            here = host == "localhost" or host.endswith(".localhost")
        return "local" if here else "cluster"


PROVIDERS = (
    Provider("openai", "https://api.openai.com/v1", "openai", endpoints=("responses",)),
    Provider(
        "anthropic",
        "https://api.anthropic.com/v1",
        "anthropic",
        dialect="anthropic",
        headers=MappingProxyType({"anthropic-version": "2023-06-01"}),
        key_header="x-api-key",
        listing="/models?limit=1000",
    ),
    Provider(
        "google",
        "https://generativelanguage.googleapis.com/v1beta",
        "google",
        dialect="gemini",
        key_header="x-goog-api-key",
        strip="models/",
        listing="/models?pageSize=1000",
    ),
    Provider("mistral", "https://api.mistral.ai/v1", "mistral"),
    Provider("groq", "https://api.groq.com/openai/v1", "groq"),
    Provider("xai", "https://api.x.ai/v1", "x-ai", endpoints=("responses",)),
    Provider("deepseek", "https://api.deepseek.com/v1", "deepseek"),
    Provider("openrouter", "https://openrouter.ai/api/v1", "openrouter"),
    Provider("together", "https://api.together.xyz/v1", "together"),
    Provider("fireworks", "https://api.fireworks.ai/inference/v1", "fireworks"),
    Provider("cerebras", "https://api.cerebras.ai/v1", "cerebras"),
    Provider("venice", "https://api.venice.ai/api/v1"),
    Provider(
        "perplexity",
        "https://api.perplexity.ai",
        "perplexity",
        models=("sonar", "sonar-pro", "sonar-reasoning-pro", "sonar-deep-research"),
        listing=None,
    ),
    Provider("nvidia", "https://integrate.api.nvidia.com/v1"),
    Provider("huggingface", "https://router.huggingface.co/v1"),
    # Its list names what could be deployed, not what is.
    Provider("azure", None, "azure", key_header="api-key", endpoints=("responses",), listing=None),
    Provider("ollama", own=True),
    Provider("lmstudio", own=True),
    Provider("llamacpp", own=True),
    Provider("vllm", own=True),
)
"""Every provider that a key enables, or an address where it has none of its own."""
