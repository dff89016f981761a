"""Admission: who calls, and whether this caller may ask for this model."""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase
from typing import Literal

from router.registry.snapshot import Catalog
from router.types import Caller
from shared.errors import Forbidden, Unauthenticated

__all__ = ["ANONYMOUS", "AuthMode", "Doorkeeper", "is_loopback", "may_use", "permit"]

AuthMode = Literal["auto", "required", "off"]
ANONYMOUS = Caller(id="anonymous", name="anonymous")


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Doorkeeper:
    """Identifies callers by their key.

    Args:
        mode: `auto` lets anybody in while the registry holds no key at all, `required` never
            does, `off` always does.
        loopback: Whether only this machine can call; `auto` opens no door to a network.
    """

    def __init__(self, mode: AuthMode = "auto", *, loopback: bool = True) -> None:
        self._mode: AuthMode = "required" if mode == "auto" and not loopback else mode
        self._keyed = False
        """Whether keys have been seen: a registry that is lost, and empty again, opens nothing."""

    def identify(self, authorization: str | None, catalog: Catalog) -> Caller:
        """Return who calls.

        Args:
            authorization: The `Authorization` header.
            catalog: The snapshot with the keys.

        Raises:
            Unauthenticated: No key where one is needed, or one that is not valid.
        """
        if self.open(catalog):
            return ANONYMOUS
        if authorization is None:
            raise Unauthenticated("No API key was given. Send it as 'Authorization: Bearer YOUR_KEY'.")
        scheme, _, key = authorization.strip().partition(" ")
        caller = catalog.caller(key.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Unauthenticated("The API key is not valid.")
        return caller

    def open(self, catalog: Catalog) -> bool:
        """Return whether anybody may call without a key."""
        self._keyed = self._keyed or catalog.has_keys
        return self._mode == "off" or (self._mode == "auto" and not self._keyed)


def permit(caller: Caller, model: str) -> None:
    """Check that a caller may ask for a model or policy.

    Raises:
        Forbidden: It is in none of the caller's globs.
    """
    if not may_use(caller, model):
        raise Forbidden(f"This API key may not use the model {model!r}.", param="model")


def may_use(caller: Caller, model: str) -> bool:
    """Return whether a name is in one of the caller's globs."""
    return "*" in caller.models or any(fnmatchcase(model, glob) for glob in caller.models)
