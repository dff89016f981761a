"""How property tests run here, and the values that several of them draw."""

from __future__ import annotations

import json
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

_space = st.text(" \t\r\n", max_size=3)


@st.composite
def spellings(draw: st.DrawFn, value: Any) -> str:
    """Draw one of the ways in which JSON can write a value: spacing, escapes, object members in order."""
    if isinstance(value, dict):
        return draw(objects(list(value.items())))
    if isinstance(value, list):
        return "[" + ",".join(draw(_padded(draw(spellings(item)))) for item in value) + draw(_space) + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def objects(draw: st.DrawFn, members: list[tuple[str, Any]]) -> str:
    """Draw one of the ways in which JSON can write an object; names may come twice."""
    written = []
    for name, value in members:
        quoted = json.dumps(name, ensure_ascii=draw(st.booleans()))
        if name and draw(st.booleans()) and ord(name[0]) < 0x10000:
            quoted = f'"\\u{ord(name[0]):04x}' + json.dumps(name[1:])[1:]
        written.append(draw(_padded(quoted)) + ":" + draw(_padded(draw(spellings(value)))))
    return "{" + (",".join(written) or draw(_space)) + "}"


@st.composite
def _padded(draw: st.DrawFn, written: str) -> str:
    return draw(_space) + written + draw(_space)


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw one of the ways in which a network can cut bytes into pieces, empty ones too."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
