"""Admission: who is let in, by mode, by key, and by what the registry has held."""

from __future__ import annotations

import hashlib

import pytest

from router.admission import ANONYMOUS, AuthMode, Doorkeeper, is_loopback
from router.registry.snapshot import Catalog
from router.types import Caller
from shared.errors import Unauthenticated

KEY = "sk-router-test"
CALLER = Caller(id="key_1", name="test")
EMPTY = Catalog()
KEYED = Catalog(callers={hashlib.sha256(KEY.encode()).hexdigest(): CALLER}, has_keys=True)
REVOKED = Catalog(has_keys=True)


@pytest.mark.parametrize(
    ("mode", "loopback", "catalog", "is_open"),
    [
        ("auto", True, EMPTY, True),
        ("auto", True, KEYED, False),
        ("auto", True, REVOKED, False),
        ("auto", False, EMPTY, False),
        ("auto", False, KEYED, False),
        ("required", True, EMPTY, False),
        ("off", True, KEYED, True),
        ("off", False, EMPTY, True),
    ],
)
def test_doorkeeper_is_open_only_where_it_may_be(
    mode: AuthMode, loopback: bool, catalog: Catalog, is_open: bool
) -> None:
    """`auto` asks for a key from the first key on, and always towards a network."""
    assert Doorkeeper(mode, loopback=loopback).open(catalog) is is_open


def test_doorkeeper_stays_shut_when_the_registry_is_lost() -> None:
    """An empty registry in the place of one with keys does not open the door."""
    doorkeeper = Doorkeeper()
    assert doorkeeper.identify(None, EMPTY) is ANONYMOUS
    assert doorkeeper.identify(f"Bearer {KEY}", KEYED) is CALLER
    with pytest.raises(Unauthenticated):
        doorkeeper.identify(None, EMPTY)
    assert doorkeeper.identify(f"Bearer {KEY}", KEYED) is CALLER


@pytest.mark.parametrize(
    "authorization", [None, "", KEY, "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY} x", "Bearer é"]
)
def test_doorkeeper_refuses_what_is_no_key(authorization: str | None) -> None:
    """Whatever is not exactly a known key is refused."""
    with pytest.raises(Unauthenticated):
        Doorkeeper().identify(authorization, KEYED)


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY}  "])
def test_doorkeeper_takes_any_spelling_of_the_scheme(authorization: str) -> None:
    """The scheme has no case, and the spaces around a key are not part of it."""
    assert Doorkeeper().identify(authorization, KEYED) is CALLER


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::1234", False),
        ("192.168.1.2", False),
        ("127.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_is_loopback_goes_by_the_address(host: str, loopback: bool) -> None:
    """An address that only begins like a loopback one is none."""
    assert is_loopback(host) is loopback
