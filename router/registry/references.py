"""What the parts of a manifest say of each other: names taken twice, references that lead nowhere, circles.

Here too is what no backend may be told, so that a registry from before that rule can still be read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from router.registry.build import find_cycle
from router.registry.yamlmarks import Path
from router.wire.steering import steers

__all__ = ["cross_errors", "did_you_mean"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to add to an error message, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def cross_errors(document: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return every contradiction in a manifest's plain values.

    It looks past values of the wrong type, so that these and the contradictions are reported together.
    """
    backends = _names(document, "backends", "name")
    models = _names(document, "models", "id")
    errors = [*_repeated(backends, "backend"), *_backend_errors(document), *_name_clashes(document, models)]
    errors += _deployment_errors(document, [name for _, name in backends])
    errors += _fallback_errors(document, models)
    return errors


def _entries(value: Any, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the mappings of a list, with their positions."""
    items = value.get(key) if isinstance(value, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _texts(value: Any) -> Iterator[tuple[int, str]]:
    """Yield the strings of a list, with their positions."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            yield index, item


def _names(document: dict[str, Any], section: str, key: str) -> list[tuple[Path, str]]:
    return [
        ((section, index, key), entry[key])
        for index, entry in _entries(document, section)
        if isinstance(entry.get(key), str)
    ]


def _repeated(names: Iterable[tuple[Path, str]], what: str) -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for path, name in names:
        if name in seen:
            yield path, f"there is another {what} named {name!r}"
        seen.add(name)


def _backend_errors(document: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for index, backend in _entries(document, "backends"):
        for at, name in _texts(backend.get("forward_headers")):
            if steers(name.lower(), cluster=backend.get("tier") == "cluster"):
                path: Path = ("backends", index, "forward_headers", at)
                yield path, f"{name!r} steers a cluster, so no client's may be forwarded"
        if backend.get("discover") is True and backend.get("dialect") not in ("openai", None):
            yield ("backends", index, "discover"), "only a backend of the dialect openai can be asked what it serves"


def _name_clashes(document: dict[str, Any], models: list[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    """Check the one space of names that clients choose from: ids, aliases and policies."""
    aliases = [
        (("models", index, "aliases", at), alias)
        for index, entry in _entries(document, "models")
        for at, alias in _texts(entry.get("aliases"))
    ]
    policies = _names(document, "policies", "name")
    kinds = [(path, name, "model") for path, name in models]
    kinds += [(path, name, "alias") for path, name in aliases]
    kinds += [(path, name, "policy") for path, name in policies]
    taken: dict[str, str] = {}
    for path, name, kind in kinds:
        if name in taken:
            yield path, f"the name {name!r} is taken by another {taken[name]}"
        taken.setdefault(name, kind)


def _deployment_errors(document: dict[str, Any], backends: list[str]) -> Iterator[tuple[Path, str]]:
    for index, model in _entries(document, "models"):
        places: set[tuple[str, str]] = set()
        for at, deployment in _entries(model, "deployments"):
            name = deployment.get("backend")
            path: Path = ("models", index, "deployments", at, "backend")
            if not isinstance(name, str):
                continue
            if name not in backends:
                yield path, f"there is no backend {name!r} in this file" + did_you_mean(name, backends)
            place = (name, str(deployment.get("upstream_model", model.get("id"))))
            if place in places:
                yield path, f"this model is already deployed on {name!r} as {place[1]!r}"
            places.add(place)


def _fallback_errors(document: dict[str, Any], models: list[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    owner = {name: name for _, name in models}
    for _, model in _entries(document, "models"):
        for _, alias in _texts(model.get("aliases")):
            if isinstance(model.get("id"), str):
                owner.setdefault(alias, model["id"])
    edges: dict[str, list[str]] = {}
    first: dict[str, Path] = {}
    for index, model in _entries(document, "models"):
        for at, name in _texts(model.get("fallbacks")):
            path: Path = ("models", index, "fallbacks", at)
            if name not in owner:
                yield path, f"there is no model {name!r} in this file" + did_you_mean(name, owner)
            elif isinstance(model.get("id"), str):
                edges.setdefault(model["id"], []).append(owner[name])
                first.setdefault(model["id"], ("models", index, "fallbacks"))
    if cycle := find_cycle(edges):
        yield first[cycle[0]], f"the fallbacks form a circle: {' → '.join(cycle)}"
