"""The Valkey processes of these tests."""

from __future__ import annotations

from tests.support.valkey import own_valkey, valkey

__all__ = ["own_valkey", "valkey"]
