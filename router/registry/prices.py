"""What providers charge and how much they read, from the library `genai-prices` (no network).

Unknown is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from router.types import Price

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

__all__ = ["KnownModel", "look_up"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the library knows of a model."""

    price: Price
    context_length: int | None


def look_up(provider: str | None, model: str, at: datetime) -> KnownModel:
    """Return what is known of a provider's model.

    Where a price depends on the length of the prompt, the price of ordinary prompts counts.

    Args:
        provider: The provider's id in the library; None where it does not know the provider.
        model: The provider's name of the model.
        at: The moment whose prices count.
    """
    if provider is None:
        return KnownModel(Price(), None)
    # The library and its data take eight megabytes, for nothing where no provider is asked.
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    try:
        _, known = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return KnownModel(Price(), None)
    prices = known.get_prices(at)
    return KnownModel(
        Price(_plain(prices.input_mtok), _plain(prices.cache_read_mtok), _plain(prices.output_mtok)),
        known.context_window,
    )


def _plain(price: Decimal | TieredPrices | None) -> Decimal | None:
    return price if price is None or isinstance(price, Decimal) else price.base
