"""Multipart forms by position: what a standard library writes is read, what is broken is told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.fields import splice
from router.wire.forms import add_field, is_form, read_form
from shared.errors import InvalidRequest

TYPE = "multipart/form-data; boundary=b"
NAMES = st.text(st.sampled_from("abcdef[]_-é"), min_size=1, max_size=8)


def written(fields: dict[str, str], file: bytes) -> tuple[bytes, str]:
    """Return a form's body and content type, as httpx writes it."""
    request = httpx.Request("POST", "http://x", data=fields, files={"file": ("a.bin", file)})
    return request.read(), request.headers["content-type"]


@given(st.dictionaries(NAMES, st.text()), st.binary())
def test_fields_are_found_and_replaced(fields: dict[str, str], file: bytes) -> None:
    """Every text is where it is said to be, and the rest stays when one is replaced or added."""
    body, content_type = written(fields, file)
    spans = read_form(body, content_type)
    # A form's lines end in CRLF whatever was typed, but values are taken as they are.
    assert {name: body[slice(*span)].decode() for name, span in spans.items()} == fields
    added = splice(body, [add_field(body, content_type, "model", b"up")])
    again = read_form(added, content_type)
    assert set(again) == {*fields, "model"}
    assert added.endswith(body)
    if "model" not in fields:
        assert added[slice(*again["model"])] == b"up"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_form_or_a_clear_refusal(noise: bytes) -> None:
    """Nothing but the one error comes of it."""
    for body in (noise, b"--b" + noise, b"--b\r\n" + noise, b"--b\r\n\r\n" + noise + b"\r\n--b--"):
        try:
            spans = read_form(body, TYPE)
        except InvalidRequest:
            continue
        assert all(0 <= start <= end <= len(body) for start, end in spans.values())


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n', "model", b"m"),
        (b"preamble\r\n--b\r\ncontent-disposition:form-data;name=model\r\n\r\n\r\n--b--", "model", b""),
        (b'--b  \r\nX: 1\r\nContent-Disposition: form-data; name="a\\"b"\r\n\r\n--b\r\n--b--', 'a\\"b', b"--b"),
    ],
)
def test_spellings_of_a_form(body: bytes, name: str, value: bytes) -> None:
    """With a preamble, without quotes, with spaces behind the boundary."""
    spans = read_form(body, TYPE)
    assert body[slice(*spans[name])] == value


def test_a_file_is_no_field() -> None:
    """Whatever it is called."""
    body = b'--b\r\nContent-Disposition: form-data; name="model"; filename="x"\r\n\r\nm\r\n--b--\r\n'
    assert read_form(body, TYPE) == {}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--b\r\n\r\n\r\n--b--", "multipart/form-data"),
        (b"", TYPE),
        (b"--c--", TYPE),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nvalue', TYPE),
        (b"--b\r\nno end of the head", TYPE),
        (b"--b\r\n" + b"x" * 20_000 + b"\r\n\r\n\r\n--b--", TYPE),
        (b"--b and more\r\n\r\n\r\n--b--", TYPE),
        (b"--b\r\n\r\n\r\n" * 1001 + b"--b--", TYPE),
    ],
)
def test_broken_forms_are_refused(body: bytes, content_type: str) -> None:
    """Cut off, without a boundary, with endless heads or parts."""
    with pytest.raises(InvalidRequest):
        read_form(body, content_type)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [(TYPE, True), ("Multipart/Form-Data;boundary=x", True), ("application/json", False), ("", False)],
)
def test_forms_are_known_by_their_type(content_type: Any, form: bool) -> None:
    """In any case."""
    assert is_form(content_type) is form
