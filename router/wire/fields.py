"""The top level of a JSON object, by position: values are read and replaced, other bytes stay.

The positions come from the lengths of the raw values that msgspec hands out, in order, so the
cost is that of one skimming parse plus a little for each top-level field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

__all__ = [
    "Splice",
    "index_fields",
    "insert_field",
    "raw_fields",
    "remove_field",
    "splice",
    "splice_parts",
    "with_model",
]

Splice = tuple[int, int, bytes]
"""Replace `body[start:end]` with the bytes."""

_OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OPEN = re.compile(rb"[ \t\n\r]*\{")
_NAME = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*')
_NEXT = re.compile(rb"[ \t\n\r]*[,}]")
_SPACE = b" \t\n\r"


def index_fields(body: bytes) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the body and where each top-level value stands in it.

    A body that names a field twice is rewritten with the last value of each, which is what JSON
    parsers keep; any other body comes back as it is.

    Raises:
        msgspec.DecodeError: The body is not JSON.
        msgspec.ValidationError: It is JSON, but not an object.
        RecursionError: It is nested too deeply.
    """
    fields = _OBJECT.decode(body)
    spans = _reckon(body, fields) or _walk(body, fields)
    if spans is None:
        body = msgspec.json.encode(fields)
        spans = _walk(body, fields) or {}
    return body, spans


def raw_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """Return the top-level values of a JSON object as they are written; raises as `index_fields` does."""
    return _OBJECT.decode(body)


def _reckon(body: bytes, fields: Mapping[str, msgspec.Raw]) -> dict[str, tuple[int, int]] | None:
    """Return where each value stands in a body without spaces, or None where it has any.

    Whatever else a body may hold (spaces, a name twice or with escapes) makes it longer than its
    parts, so a length that is right proves the positions.
    """
    spans: dict[str, tuple[int, int]] = {}
    position = 1
    for name, raw in fields.items():
        start = position + len(name) + 3
        position = start + len(memoryview(raw))
        spans[name] = (start, position)
        position += 1
    return spans if position == len(body) else None


def _walk(body: bytes, fields: Mapping[str, msgspec.Raw]) -> dict[str, tuple[int, int]] | None:
    spans: dict[str, tuple[int, int]] = {}
    opening = _OPEN.match(body)
    if opening is None:
        return None
    position = opening.end()
    for name, raw in fields.items():
        head = _NAME.match(body, position)
        if head is None or not _same_name(head.group(1), name):
            return None
        start = head.end()
        end = start + len(memoryview(raw))
        after = _NEXT.match(body, end)
        if after is None:
            return None
        spans[name] = (start, end)
        position = after.end()
    return spans if not body[position:].strip(b"}" + _SPACE) else None


def _same_name(quoted: bytes, name: str) -> bool:
    if b"\\" not in quoted:
        return quoted[1:-1] == name.encode()
    return bool(msgspec.json.decode(quoted) == name)


def splice(body: bytes, splices: Sequence[Splice]) -> bytes:
    """Return `body` with every replacement made; the replacements must not overlap."""
    return b"".join(splice_parts(body, splices))


def splice_parts(body: bytes, splices: Sequence[Splice]) -> list[bytes | memoryview]:
    """Return what `splice` does in parts that copy nothing of `body`."""
    rest = memoryview(body)
    parts: list[bytes | memoryview] = []
    position = 0
    for start, end, new in sorted(splices) if len(splices) > 1 else splices:
        parts += (rest[position:start], new)
        position = end
    parts.append(rest[position:])
    return parts


def remove_field(body: bytes, spans: Mapping[str, tuple[int, int]], name: str) -> Splice:
    """Return the replacement that takes a field out, with one of the commas beside it."""
    names = list(spans)
    index = names.index(name)
    end = spans[name][1]
    if index > 0:
        return (spans[names[index - 1]][1], end, b"")
    opening = _OPEN.match(body)
    start = opening.end() if opening else 0
    after = _NEXT.match(body, end)
    if len(names) > 1 and after is not None:
        end = after.end()
    return (start, end, b"")


def insert_field(spans: Mapping[str, tuple[int, int]], name: str, value: bytes) -> Splice:
    """Return the replacement that adds a field after the last one; `spans` must not be empty."""
    end = max(end for _, end in spans.values())
    return (end, end, b"," + msgspec.json.encode(name) + b":" + value)


def with_model(body: bytes, model: str) -> bytes:
    """Return a JSON object with its top-level `model` replaced; other bytes stay."""
    body, spans = index_fields(body)
    if "model" not in spans:
        return body
    return splice(body, [(*spans["model"], msgspec.json.encode(model))])
