"""Reading `GET /v1/models` of agents, vLLM and providers, each with its own dialect of facts; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal
from urllib.parse import quote

from router.registry.prices import look_up
from router.registry.providers import Provider
from router.registry.rows import FoundModel
from router.types import Price

__all__ = ["ListingKind", "next_page", "read_listing"]

ListingKind = Literal["agent", "cluster", "provider"]

_ID = r"[!-~]{1,256}"
_FREE = Price(Decimal(0), Decimal(0), Decimal(0))
_CONTEXT = (
    "context_length",
    "max_model_len",
    "context_window",
    "max_context_length",
    "max_input_tokens",
    "inputTokenLimit",
)
_OUTPUT = ("max_output_tokens", "max_completion_tokens", "max_tokens", "outputTokenLimit")
# A list of models names what is not for chat in the id alone. The first match counts.
_PURPOSES = tuple(
    (re.compile(pattern, re.IGNORECASE), capability)
    for pattern, capability in (
        (r"rerank", "rerank"),
        (r"embed|(^|[/-])bge-|(^|[/-])gte-|(^|[/-])e5-", "embeddings"),
        (r"moderation|(^|[/-])llama-?guard|prompt-guard", "moderations"),
        (r"realtime", "realtime"),
        (r"whisper|transcri|(^|[/-])tts|[/-]tts($|[/-])|text-to-speech|voxtral.*tts|orpheus|playai", "audio"),
        (r"dall-e|gpt-image|chatgpt-image|imagen|image-generation|flux|stable-diffusion|sdxl|grok.*-image", "images"),
        (r"(^|[/-])(sora|veo|lyria|kling|wan2)", "video"),
        (r"(^|/)(babbage|davinci)-|gpt-3\.5-turbo-instruct", "completions"),
    )
)


def read_listing(
    payload: Any, kind: ListingKind, at: datetime, provider: Provider | None = None
) -> tuple[FoundModel, ...]:
    """Return the models that a list names, in its order.

    Args:
        payload: The decoded JSON.
        kind: Whose list it is.
        at: The moment whose prices count.
        provider: Whose, where it is a provider's.

    Raises:
        ValueError: It is no list of models.
    """
    found: dict[str, FoundModel] = {}
    for entry in (
        _gemini_entries(payload) if provider is not None and provider.dialect == "gemini" else _entries(payload)
    ):
        if kind == "agent":
            model = _agent_model(entry)
        elif kind == "cluster":
            model = _cluster_model(entry)
        elif provider is None:
            model = _model(entry, entry["id"])
        else:
            model = _provider_model(entry, provider, at)
        found.setdefault(model.id, model)
    return tuple(found.values())


def _entries(payload: Any) -> Iterator[Mapping[str, Any]]:
    items = payload.get("data") if isinstance(payload, dict) else payload
    if not isinstance(items, list):
        raise ValueError("the answer is no list of models")  # noqa: TRY004 - it is foreign data
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("id"), str) and re.fullmatch(_ID, item["id"]):
            yield item


def _gemini_entries(payload: Any) -> Iterator[Mapping[str, Any]]:
    """Return those that generate content, as entries like everybody's; an id alone is one as well."""
    items = payload.get("models", payload.get("data")) if isinstance(payload, dict) else None
    if not isinstance(items, list):
        raise ValueError("the answer is no list of models")  # noqa: TRY004 - it is foreign data
    able = []
    for item in items:
        if isinstance(item, dict):
            methods = item.get("supportedGenerationMethods", ["generateContent"])
            if isinstance(methods, list) and "generateContent" in methods:
                able.append({**item, "id": item.get("id", item.get("name"))})
    return _entries(able)


def next_page(payload: Any) -> str | None:
    """Return what to add to the query for the next part of a list, or None at its end."""
    if not isinstance(payload, dict):
        return None
    token, last = payload.get("nextPageToken"), payload.get("last_id")
    if isinstance(token, str) and token:
        return f"pageToken={quote(token, safe='')}"
    if payload.get("has_more") is True and isinstance(last, str) and last:
        return f"after_id={quote(last, safe='')}"
    return None


def _model(entry: Mapping[str, Any], name: str) -> FoundModel:
    return FoundModel(id=name, context_length=_count(entry, _CONTEXT), max_output_tokens=_count(entry, _OUTPUT))


def _agent_model(entry: Mapping[str, Any]) -> FoundModel:
    capabilities = entry.get("capabilities")
    told = [item for item in capabilities if isinstance(item, str)] if isinstance(capabilities, list) else []
    return replace(_model(entry, entry["id"]), capabilities=tuple(told), price=_FREE)


def _cluster_model(entry: Mapping[str, Any]) -> FoundModel:
    """Return a model, or the adapter of one; `root` is a path on the workers and nobody's business."""
    parent = entry.get("parent")
    adapts = isinstance(parent, str) and parent != entry["id"] and re.fullmatch(_ID, parent)
    return replace(_model(entry, entry["id"]), parent=parent if adapts else None)


def _provider_model(entry: Mapping[str, Any], provider: Provider, at: datetime) -> FoundModel:
    name = entry["id"].removeprefix(provider.strip)
    model = _model(entry, name)
    known = look_up(provider.prices, name, at)
    return replace(
        model,
        context_length=model.context_length or _nested_context(entry) or known.context_length,
        max_output_tokens=model.max_output_tokens or _count(entry.get("top_provider"), _OUTPUT),
        capabilities=_purpose(entry, name),
        price=_FREE if provider.own else _listed_price(entry.get("pricing")) or known.price,
    )


def _purpose(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return what a model is for where it is clearly not chat; else nothing, which is unknown."""
    for pattern, capability in _PURPOSES:
        if pattern.search(name):
            return (capability,)
    kinds = {
        "embedding": "embeddings",
        "image": "images",
        "audio": "audio",
        "rerank": "rerank",
        "moderation": "moderations",
    }
    kind = entry.get("type")  # Together and Venice say it
    if isinstance(kind, str) and kind in kinds:
        return (kinds[kind],)
    return ()


def _nested_context(entry: Mapping[str, Any]) -> int | None:
    """Return the context that Venice tells of a model, or the largest that Hugging Face's providers offer."""
    offers = entry.get("providers")
    found = [_count(offer, _CONTEXT) or 0 for offer in offers] if isinstance(offers, list) else []
    return _count(entry.get("model_spec"), ("availableContextTokens",)) or max(found, default=0) or None


def _count(entry: Any, names: tuple[str, ...]) -> int | None:
    """Return the first positive whole number under one of the names."""
    for name in names if isinstance(entry, Mapping) else ():
        value = entry.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53:
            return value
    return None


def _listed_price(pricing: Any) -> Price | None:
    """Return OpenRouter's own price, which is text in USD per token; negative means that it varies."""
    if not isinstance(pricing, Mapping):
        return None
    per_token = [pricing.get(name) for name in ("prompt", "input_cache_read", "completion")]
    prompt, cached, completion = (_per_million(value) for value in per_token)
    return None if prompt is None or completion is None else Price(prompt, cached, completion)


def _per_million(value: Any) -> Decimal | None:
    try:
        price = Decimal(value) * 1_000_000 if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return None if price is None or not price.is_finite() or price < 0 else price.normalize()
