"""Features: taken from a request once, tightened by a policy, never loosened."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from router.routing.features import extract_features
from router.types import Constraints, Wishes
from tests.support.nouns import chat_request

STRICTNESS = ["any", "cluster", "local"]
_privacy = st.sampled_from(STRICTNESS)
_cost = st.none() | st.decimals(0, 10, places=4)
_time = st.none() | st.integers(1, 10_000)


@given(_privacy, _cost, _time, _privacy, _cost, _time)
def test_features_tighten_and_never_loosen(
    wished: str, cost: Decimal | None, first: int | None, ruled: str, most: Decimal | None, limit: int | None
) -> None:
    """Of a wish and a constraint the stricter one holds; an absent one holds nothing."""
    wishes = Wishes(privacy=wished, max_cost_usd=cost, first_token_ms=first)  # type: ignore[arg-type]
    constraints = Constraints(privacy=ruled, max_cost_usd=most, first_token_ms=limit)  # type: ignore[arg-type]
    features = extract_features(chat_request(wishes=wishes), constraints)
    assert STRICTNESS.index(features.privacy) == max(STRICTNESS.index(wished), STRICTNESS.index(ruled))
    assert features.max_cost_usd == min((value for value in (cost, most) if value is not None), default=None)
    assert features.first_token_ms == min((value for value in (first, limit) if value is not None), default=None)


def test_features_take_what_the_request_says() -> None:
    """Needs, lengths, choices, streaming and session come from the request."""
    request = chat_request(
        messages=[{"role": "user", "content": "x" * 1600}],
        tools=[{"type": "function"}],
        max_tokens=9,
        n=3,
        stream=True,
        router={"session": "s"},
    )
    features = extract_features(request, Constraints())
    assert features.needs == {"chat", "tools"}
    assert (features.prompt_tokens, features.prompt_tokens_least) == (401, 100)
    assert (features.max_tokens, features.choices, features.stream, features.session) == (9, 3, True, "s")


def test_features_take_the_session_from_where_clients_say_it() -> None:
    """The key of the prompt cache says which requests belong together; a wish says more, `user` and null nothing."""
    for fields, session in (
        ({"prompt_cache_key": "conversation-1"}, '"conversation-1"'),
        ({"prompt_cache_key": "conversation-1", "router": {"session": "s"}}, "s"),
        ({"prompt_cache_key": None}, None),
        ({"user": "everybody"}, None),
    ):
        assert extract_features(chat_request(**fields), Constraints()).session == session


def test_features_count_attachments_by_number() -> None:
    """An image costs about a thousand tokens, and nothing for certain."""
    image = {"type": "image_url", "image_url": {"url": "data:" + "A" * 100_000}}
    features = extract_features(chat_request(messages=[{"role": "user", "content": [image] * 2}]), Constraints())
    assert (features.prompt_tokens, features.prompt_tokens_least) == (2001, 0)
