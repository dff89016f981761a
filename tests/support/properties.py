"""How property tests run here, and the values that several of them draw."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# A busy machine must not fail a test that is right.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""Any text that UTF-8 can hold."""

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
"""Any JSON value."""


def objects(members: list[tuple[str, Any]]) -> st.SearchStrategy[str]:
    """Draw one of the ways in which JSON can write an object: spacing, escapes; names may come twice."""
    # One draw for a whole spelling: many small ones are slow, and no bug hides in their shrinking.
    return st.integers(0, 2**32).map(lambda seed: _object(Random(seed), members))


def _object(chance: Random, members: list[tuple[str, Any]]) -> str:
    written = []
    for name, value in members:
        quoted = json.dumps(name, ensure_ascii=chance.random() < 0.5)
        if name and ord(name[0]) < 0x10000 and chance.random() < 0.3:
            quoted = f'"\\u{ord(name[0]):04x}' + json.dumps(name[1:])[1:]
        written.append(_padded(chance, quoted) + ":" + _padded(chance, _value(chance, value)))
    return "{" + (",".join(written) or _space(chance)) + "}"


def _value(chance: Random, value: Any) -> str:
    if isinstance(value, dict):
        return _object(chance, list(value.items()))
    if isinstance(value, list):
        return "[" + ",".join(_padded(chance, _value(chance, item)) for item in value) + _space(chance) + "]"
    return json.dumps(value, ensure_ascii=chance.random() < 0.5)


def _padded(chance: Random, written: str) -> str:
    return _space(chance) + written + _space(chance)


def _space(chance: Random) -> str:
    return "".join(chance.choices(" \t\r\n", k=chance.choice((0, 0, 0, 1, 2))))


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw one of the ways in which a network can cut bytes into pieces, empty ones too."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
