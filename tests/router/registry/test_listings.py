"""Lists of models: each kind of server's facts, and foreign JSON that is none."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.registry.listings import next_page, read_listing
from router.registry.prices import look_up
from router.registry.providers import PROVIDERS
from router.registry.rows import FoundModel
from router.types import Price

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)
BY_NAME = {provider.name: provider for provider in PROVIDERS}


def one(entry: dict[str, Any], provider: str) -> FoundModel:
    """Return what one entry of a provider's list means."""
    (model,) = read_listing({"data": [entry]}, "provider", NOW, BY_NAME[provider])
    return model


def test_read_listing_of_an_agent() -> None:
    """An agent's models cost nothing and keep their facts."""
    entry = {"id": "m", "context_length": 8192, "max_output_tokens": 2048, "capabilities": ["chat", "messages", 3]}
    (model,) = read_listing({"data": [entry]}, "agent", NOW)
    assert model == FoundModel("m", 8192, 2048, ("chat", "messages"), Price(Decimal(0), Decimal(0), Decimal(0)))


def test_read_listing_of_a_cluster() -> None:
    """The context is what vLLM was started with; the price is not known."""
    assert read_listing({"data": [{"id": "org/m", "max_model_len": 4096}]}, "cluster", NOW) == (
        FoundModel("org/m", 4096),
    )


def test_read_listing_of_a_provider_adds_prices() -> None:
    """Price and context come from the library where the list is silent, and are unknown beyond it."""
    model = one({"id": "gpt-4o-mini", "object": "model"}, "openai")
    assert model.price == Price(Decimal("0.15"), Decimal("0.075"), Decimal("0.6"))
    assert model.context_length == 128000
    assert one({"id": "gpt-99-unheard-of"}, "openai") == FoundModel("gpt-99-unheard-of")


def test_read_listing_prefers_what_the_provider_says() -> None:
    """OpenRouter's own price by the token becomes one by the million; a varying one is unknown."""
    entry = {"id": "a/b", "context_length": 1000, "pricing": {"prompt": "0.00000015", "completion": "0.0000006"}}
    model = one({**entry, "top_provider": {"max_completion_tokens": 99}}, "openrouter")
    assert model.price == Price(Decimal("0.15"), None, Decimal("0.6"))
    assert (model.context_length, model.max_output_tokens) == (1000, 99)
    assert one({"id": "a/b", "pricing": {"prompt": "-1", "completion": "-1"}}, "openrouter").price == Price()
    assert one({"id": "a/b", "pricing": {"prompt": "x", "completion": "NaN"}}, "openrouter").price == Price()


def test_read_listing_of_other_shapes() -> None:
    """A bare list, a prefixed id and a nested context are read as well."""
    (together,) = read_listing([{"id": "m", "type": "embedding"}], "provider", NOW, BY_NAME["together"])
    assert together.capabilities == ("embeddings",)
    offers = [{"provider": "a", "context_length": 8192}, {"provider": "b", "context_length": 32768}, {"provider": "c"}]
    assert one({"id": "o/m", "providers": offers}, "huggingface").context_length == 32768
    assert one({"id": "v", "model_spec": {"availableContextTokens": 32768}}, "venice").context_length == 32768


def test_read_listing_of_google_keeps_what_generates_content() -> None:
    """Its own shape: names with a prefix, limits in words of its own, methods; the rest cannot be asked."""
    chat = {"name": "models/gemini-2.5-flash", "inputTokenLimit": 1048576, "outputTokenLimit": 65536}
    chat["supportedGenerationMethods"] = ["generateContent", "countTokens"]
    embedding = {"name": "models/gemini-embedding-001", "supportedGenerationMethods": ["embedContent"]}
    odd = [3, {"name": 5}, {"name": "models/x", "supportedGenerationMethods": 7}]
    (found,) = read_listing({"models": [chat, embedding, *odd]}, "provider", NOW, BY_NAME["google"])
    assert (found.id, found.context_length, found.max_output_tokens) == ("gemini-2.5-flash", 1048576, 65536)
    assert found.price.input is not None
    assert found.capabilities == ()
    with pytest.raises(ValueError, match="no list"):
        read_listing({"error": {}}, "provider", NOW, BY_NAME["google"])


def test_read_listing_of_anthropic_reads_its_limits() -> None:
    """Anthropic's words for the context and the answer."""
    entry = {"type": "model", "id": "claude-sonnet-4-5", "max_input_tokens": 200000, "max_tokens": 64000}
    model = one(entry, "anthropic")
    assert (model.context_length, model.max_output_tokens) == (200000, 64000)


def test_read_listing_of_a_server_of_ones_own_costs_nothing() -> None:
    """What runs here has no price by the token."""
    free = Price(Decimal(0), Decimal(0), Decimal(0))
    assert one({"id": "gpt-4o-mini"}, "ollama").price == free
    assert one({"id": "org/m", "max_model_len": 4096}, "vllm") == FoundModel("org/m", 4096, price=free)


@pytest.mark.parametrize(
    ("payload", "following"),
    [
        ({"data": []}, None),
        ([], None),
        ({"models": [], "nextPageToken": "a b&c"}, "pageToken=a%20b%26c"),
        ({"models": [], "nextPageToken": ""}, None),
        ({"data": [], "has_more": True, "last_id": "m-1"}, "after_id=m-1"),
        ({"data": [], "has_more": False, "last_id": "m-1"}, None),
        ({"data": [], "has_more": True, "last_id": None}, None),
    ],
)
def test_next_page_says_how_to_go_on(payload: Any, following: str | None) -> None:
    """Google's token and Anthropic's last id; whatever else is the end."""
    assert next_page(payload) == following


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("text-embedding-3-large", "embeddings"),
        ("whisper-1", "audio"),
        ("tts-1-hd", "audio"),
        ("gpt-4o-mini-tts", "audio"),
        ("gpt-4o-transcribe", "audio"),
        ("dall-e-3", "images"),
        ("gpt-image-1", "images"),
        ("omni-moderation-latest", "moderations"),
        ("gpt-4o-realtime-preview", "realtime"),
        ("sora-2", "video"),
        ("davinci-002", "completions"),
        ("BAAI/bge-large-en", "embeddings"),
        ("Salesforce/Llama-Rank-rerank", "rerank"),
        ("gpt-4o", None),
        ("claude-opus-4-1", None),
        ("llama-3.3-70b-versatile", None),
        ("deepseek-chat", None),
        ("mistral-large-latest", None),
        ("grok-4", None),
    ],
)
def test_read_listing_marks_what_is_not_for_chat(name: str, capability: str | None) -> None:
    """A model that is clearly for something else says so; of all others nothing is known."""
    assert one({"id": name}, "openai").capabilities == (() if capability is None else (capability,))


@pytest.mark.parametrize("payload", [None, 3, "x", {}, {"data": {}}, {"error": "x"}])
def test_read_listing_refuses_other_answers(payload: Any) -> None:
    """An answer that is no list is an error, and not a source without models."""
    with pytest.raises(ValueError, match="no list of models"):
        read_listing(payload, "agent", NOW)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_known = st.sampled_from(["context_length", "capabilities", "pricing", "top_provider", "model_spec", "type"])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.fixed_dictionaries({"id": st.text(max_size=5) | _json}) | st.dictionaries(_known, _json), max_size=4),
    st.sampled_from([None, *PROVIDERS]),
    st.sampled_from(["agent", "cluster", "provider"]),
)
def test_read_listing_survives_any_entries(entries: Any, provider: Any, kind: Any) -> None:
    """Whatever the entries hold, those without a usable id are left out and nothing fails."""
    for model in read_listing({"data": entries}, kind, NOW, provider):
        assert isinstance(model.id, str)
        assert model.context_length is None or model.context_length > 0


def test_look_up_of_what_the_library_does_not_know() -> None:
    """Unknown is None and never 0."""
    for provider, model in ((None, "m"), ("openai", "nothing-such"), ("nobody", "m")):
        known = look_up(provider, model, NOW)
        assert (known.price, known.context_length) == (Price(), None)


def test_look_up_takes_the_price_of_ordinary_prompts() -> None:
    """Where long prompts cost more, the base price counts."""
    assert look_up("google", "gemini-2.5-pro", NOW).price.input == Decimal("1.25")


def test_providers_have_unique_names_and_variables() -> None:
    """Each row has its own backend name, https address and variables."""
    assert len(BY_NAME) == len(PROVIDERS)
    for provider in PROVIDERS:
        assert provider.base_url is None or provider.base_url.startswith("https://")
        assert provider.base_url is None or not provider.own
        assert provider.key_env == f"EXTERNAL_{provider.name.upper()}_KEY"
        assert provider.base_url_env == f"EXTERNAL_{provider.name.upper()}_BASE_URL"
        assert provider.models_env == f"EXTERNAL_{provider.name.upper()}_MODELS"


def test_the_price_library_knows_the_providers() -> None:
    """Every id of a provider in the price library is one that the library has."""
    assert look_up("anthropic", "claude-sonnet-4-5", NOW).price.output is not None
    assert look_up("x-ai", "grok-4", NOW).price.output is not None
    assert look_up("groq", "llama-3.3-70b-versatile", NOW).price.output is not None
    assert look_up("cerebras", "llama3.1-8b", NOW).price.output is not None
