"""The catalog: an immutable snapshot of the registry, which is all that a request ever reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from router.types import Backend, Caller, Constraints, Model, Policy

__all__ = ["BUILT_IN_POLICIES", "EMPTY_CATALOG", "Catalog", "InvalidCatalog", "expand"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class InvalidCatalog(Exception):
    """The registry's rows contradict each other; the message is one sentence."""


def _weights(quality: float, cost: float, latency: float, affinity: float) -> Mapping[str, float]:
    return MappingProxyType({"quality": quality, "cost": cost, "latency": latency, "affinity": affinity})


BUILT_IN_POLICIES = (
    Policy("auto", weights=_weights(0.5, 0.3, 0.2, 0.1)),
    Policy("auto-fast", weights=_weights(0.1, 0.1, 0.8, 0.1)),
    Policy("auto-cheap", weights=_weights(0.1, 0.8, 0.1, 0.1)),
    Policy("auto-best", weights=_weights(0.9, 0.05, 0.05, 0.1)),
    Policy("auto-local", weights=_weights(0.5, 0.3, 0.2, 0.1), constraints=Constraints(privacy="local")),
)
"""The policies that exist without a declaration; one of the same name replaces them."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """One state of the registry. Build it with `build_catalog`.

    Attributes:
        version: The registry's revision that this is a snapshot of.
        models: Model by id, in the order of listing.
        names: Model by id and alias.
        policies: Policy by name.
        backends: Backend by name.
        callers: Caller by the SHA-256 (hexadecimal) of its key; revoked keys are not in it.
        has_keys: Whether any key was ever made, revoked ones included.
    """

    version: int = 0
    models: Mapping[str, Model] = field(default_factory=lambda: _NOTHING)
    names: Mapping[str, Model] = field(default_factory=lambda: _NOTHING)
    policies: Mapping[str, Policy] = field(default_factory=lambda: _NOTHING)
    backends: Mapping[str, Backend] = field(default_factory=lambda: _NOTHING)
    callers: Mapping[str, Caller] = field(default_factory=lambda: _NOTHING)
    has_keys: bool = False
    _members: Mapping[str, tuple[Model, ...]] = field(default_factory=lambda: _NOTHING, repr=False, compare=False)

    def caller(self, key: str) -> Caller | None:
        """Return whose key this is, or None.

        The key is hashed whatever it looks like, so the time says nothing about how close it is.
        """
        return self.callers.get(hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest())

    def resolve(self, name: str) -> Model | Policy | None:
        """Return what clients mean by a name: a model by id or alias, or a policy."""
        return self.names.get(name) or self.policies.get(name)

    def members(self, policy: Policy) -> tuple[Model, ...]:
        """Return the models that a policy may choose from, each once, in the order it names them."""
        if self.policies.get(policy.name) is policy and (known := self._members.get(policy.name)) is not None:
            return known
        return expand(policy.candidates, self.names)


def expand(candidates: Iterable[str], names: Mapping[str, Model]) -> tuple[Model, ...]:
    """Return the models that ids, aliases and globs over ids stand for."""
    found: dict[str, Model] = {}
    for pattern in candidates:
        if (exact := names.get(pattern)) is not None:
            found.setdefault(exact.id, exact)
            continue
        for name, model in names.items():
            if name == model.id and (pattern == "*" or fnmatchcase(name, pattern)):
                found.setdefault(name, model)
    return tuple(found.values())


EMPTY_CATALOG = Catalog(
    policies=MappingProxyType({policy.name: policy for policy in BUILT_IN_POLICIES}),
    _members=MappingProxyType({policy.name: () for policy in BUILT_IN_POLICIES}),
)
"""What there is before the registry could be read: no model, no key."""
