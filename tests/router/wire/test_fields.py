"""The top level of a JSON object by position: exact, and nothing else moves."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.wire.fields import index_fields, insert_field, remove_field, splice
from tests.support.properties import json_values, objects, text

_names = st.one_of(st.sampled_from(["model", "stream", "messages", "a"]), text)
_members = st.lists(st.tuples(_names, json_values), max_size=6)
_unique = st.lists(st.tuples(_names, json_values), max_size=6, unique_by=lambda member: member[0])
_sneaky = '{"model":1,"stream":"}","x":{"model":"\\"model\\":2"}}'


def drawn(data: st.DataObject, members: list[tuple[str, Any]]) -> bytes:
    """One spelling of an object, with space around it."""
    around = data.draw(st.sampled_from(["", " ", "\r\n\t"]))
    return (around + data.draw(objects(members)) + around).encode()


@given(st.data(), _members)
def test_index_fields_finds_every_value(data: st.DataObject, members: list[tuple[str, Any]]) -> None:
    """Each top-level value stands exactly where its span says; of two with one name, the last counts."""
    body = drawn(data, members)
    indexed, spans = index_fields(body)
    whole = json.loads(body)
    assert {name: json.loads(indexed[start:end]) for name, (start, end) in spans.items()} == whole
    assert json.loads(indexed) == whole
    for start, end in spans.values():
        assert indexed[start:end] == indexed[start:end].strip()
    if len({name for name, _ in members}) == len(members):
        assert indexed == body


@given(st.data(), _unique, json_values)
def test_splice_replaces_a_value_and_nothing_else(
    data: st.DataObject, members: list[tuple[str, Any]], new: Any
) -> None:
    """The bytes before and after the value stay as they are."""
    body, spans = index_fields(drawn(data, members))
    for name, (start, end) in spans.items():
        changed = splice(body, [(start, end, json.dumps(new).encode())])
        assert json.loads(changed) == {**json.loads(body), name: new}
        assert changed[:start] == body[:start]
        assert changed[len(changed) - (len(body) - end) :] == body[end:]


@given(st.data(), _members)
def test_remove_field_takes_out_one_member(data: st.DataObject, members: list[tuple[str, Any]]) -> None:
    """What is left is valid JSON, all other values byte for byte."""
    body, spans = index_fields(drawn(data, members))
    for name in spans:
        changed = splice(body, [remove_field(body, spans, name)])
        left = json.loads(body)
        del left[name]
        assert json.loads(changed) == left
        again, moved = index_fields(changed)
        assert again == changed
        for other, (start, end) in moved.items():
            assert changed[start:end] == body[slice(*spans[other])]


@given(st.data(), _members.filter(bool), text, json_values)
def test_insert_field_adds_one_member(
    data: st.DataObject, members: list[tuple[str, Any]], name: str, value: Any
) -> None:
    """The new member comes last and leaves the others alone."""
    body, spans = index_fields(drawn(data, members))
    if name in spans:
        return
    position, _, addition = insert_field(spans, name, json.dumps(value).encode())
    changed = splice(body, [(position, position, addition)])
    assert json.loads(changed) == {**json.loads(body), name: value}
    assert list(json.loads(changed))[-1] == name
    assert changed == body[:position] + addition + body[position:]


@given(st.data(), _unique.filter(lambda members: len(members) > 1))
def test_splice_makes_several_replacements_at_once(data: st.DataObject, members: list[tuple[str, Any]]) -> None:
    """Replacing every value and adding one more works in any order of the replacements."""
    body, spans = index_fields(drawn(data, members))
    splices = [(*span, b'"new"') for span in spans.values()]
    splices.append(insert_field(spans, "one more", b"1"))
    changed = splice(body, data.draw(st.permutations(splices)))
    assert json.loads(changed) == {**dict.fromkeys(spans, "new"), "one more": 1}


@given(st.binary(max_size=30))
@example(b"[]")
@example(b"")
@example(b"{}{}")
@example(b'{"a":1}}')
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'{"a":1,"a":2')
@example(b'{"\xff":1}')
def test_index_fields_refuses_what_is_no_object(body: bytes) -> None:
    """Anything else raises one of the errors it says, and nothing more surprising."""
    try:
        indexed, spans = index_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert list(json.loads(indexed.decode("utf-8", "replace"))) == list(spans)


def test_index_fields_is_not_fooled_by_what_looks_like_a_member() -> None:
    """Braces, quotes and names inside of values are values."""
    body = _sneaky.encode()
    indexed, spans = index_fields(body)
    assert indexed == body
    assert {name: body[start:end] for name, (start, end) in spans.items()} == {
        "model": b"1",
        "stream": b'"}"',
        "x": b'{"model":"\\"model\\":2"}',
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"a":{"x":1,"b":2},"b":3,"a":{"x":1}}',
        b'{"a":"x","\\u0061":"y"}',
        b'{"a":1,"b":{"b":1}   ,"a":22,"b":1 } ',
    ],
)
def test_index_fields_keeps_the_last_of_a_name(body: bytes) -> None:
    """A body that names a field twice means what JSON parsers make of it, once."""
    indexed, spans = index_fields(body)
    assert {name: json.loads(indexed[start:end]) for name, (start, end) in spans.items()} == json.loads(body)
    assert len(json.loads(indexed, object_pairs_hook=list)) == len(spans)


def test_index_fields_refuses_endless_nesting() -> None:
    """A body that nests for ever is refused, not followed."""
    with pytest.raises(RecursionError):
        index_fields(b'{"a":' + b"[" * 200_000)
