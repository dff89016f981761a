"""build_catalog(): rows in, catalog out; pure.

What is declared shadows what was found by itself:

- a declared backend replaces a found one at the same URL (and takes over its models) and hides
  one of the same name at another URL;
- a declared model replaces a found one of the same name; without deployments of its own it adds
  its facts to the found deployments; what it leaves open of itself, what was found says;
- a found model never takes a name that is declared as an alias or a policy.

An agent that announces itself and the same agent found at `LOCAL_AGENT_URL` are one backend:
the announced one while it beats.

An adapter (LoRA) has from its parent what its own row does not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

from router.registry.rows import ASKED, Row, Rows
from router.registry.snapshot import BUILT_IN_POLICIES, Catalog, InvalidCatalog, expand
from router.types import (
    Backend,
    Breaker,
    Caller,
    Constraints,
    Deployment,
    Hedge,
    Limits,
    Model,
    Policy,
    Price,
    Timeouts,
)

__all__ = ["build_catalog", "find_cycle", "same_url"]

_FOUND_ORDER = {"agent": 0, "discovery": 1}
_UNPRICED = Price()
_K = TypeVar("_K")
_V = TypeVar("_V")


def build_catalog(rows: Rows) -> Catalog:
    """Build the snapshot.

    Raises:
        InvalidCatalog: The rows contradict each other; the message says where.
    """
    backends = _backends(rows)
    policies = _declared_policies(rows)
    models, names = _models(rows, backends, policies)
    for policy in BUILT_IN_POLICIES:
        if policy.name not in names:
            policies.setdefault(policy.name, policy)
    active = [key for key in rows.keys if key["revoked_at"] is None]
    return Catalog(
        version=rows.revision,
        models=_frozen(models),
        names=_frozen(names),
        policies=_frozen(policies),
        backends=_frozen(backends.by_name),
        callers=_frozen(
            {
                key["sha256"]: Caller(key["id"], key["name"], tuple(key["models"]), key.get("objective"))
                for key in active
            }
        ),
        has_keys=bool(rows.keys),
        _members=_frozen({policy.name: expand(policy.candidates, names) for policy in policies.values()}),
    )


def _frozen(mapping: dict[_K, _V]) -> Mapping[_K, _V]:
    return MappingProxyType(mapping)


# --- backends -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Backends:
    """The backends in force, and which of them each row's backend has become (None: hidden)."""

    by_name: dict[str, Backend] = field(default_factory=dict)
    canonical: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def of(self, row: Row) -> Backend | None:
        """Return the backend in force of a deployment's row."""
        name = self.canonical.get((row["source"], row["backend"]))
        return None if name is None else self.by_name[name]


def same_url(url: str) -> str:
    """Return a form of a base URL in which equal places are equal."""
    scheme, _, rest = url.strip().rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    host = host.lower()
    if host.startswith("localhost:") or host == "localhost":
        host = "127.0.0.1" + host.removeprefix("localhost")
    return f"{scheme.lower()}://{host}{slash}{path}"


def _backends(rows: Rows) -> _Backends:
    stale = {agent["backend"] for agent in rows.agents if agent["stale"]}
    talking = {(row["id"], row["origin"]) for row in rows.models if "messages" in row["capabilities"]}
    talkers = {(row["source"], row["backend"]) for row in rows.deployments if (row["model"], row["origin"]) in talking}

    def rank(row: Row) -> int:
        if row["source"] == "manifest":
            return -1
        return 2 if row["source"] == "agent" and row["name"] in stale else _FOUND_ORDER.get(row["source"], 3)

    result = _Backends()
    by_url: dict[str, str] = {}
    for row in sorted(rows.backends, key=rank):
        name, url = row["name"], same_url(row["base_url"])
        place = (row["source"], name)
        if rank(row) >= 0 and url in by_url:
            asked = name.removeprefix(ASKED)  # another declared backend at this URL may have another key
            result.canonical[place] = asked if asked != name and asked in result.by_name else by_url[url]
        elif name in result.by_name:
            result.canonical[place] = None
        else:
            result.by_name[name] = _backend(row, stale=row["source"] == "agent" and name in stale)
            result.canonical[place] = name
            by_url.setdefault(url, name)
    for row in rows.backends:
        place = (row["source"], row["name"])
        owner = result.canonical[place]
        if owner is not None and (row["accepts_messages"] or place in talkers):
            result.by_name[owner] = replace(result.by_name[owner], accepts_messages=True)
    return result


def _backend(row: Row, *, stale: bool) -> Backend:
    return Backend(
        name=row["name"],
        dialect=row["dialect"],
        base_url=row["base_url"].rstrip("/"),
        tier=row["tier"],
        api_key_env=row["api_key_env"],
        timeouts=Timeouts(**row["timeouts"]),
        breaker=Breaker(**row["breaker"]),
        forward_headers=tuple(row["forward_headers"]),
        stale=stale,
        key_header=row["key_header"],
        endpoints=frozenset(row["endpoints"] or ()),
    )


# --- policies ---------------------------------------------------------------------------------------


def _declared_policies(rows: Rows) -> dict[str, Policy]:
    return {
        row["name"]: Policy(
            name=row["name"],
            candidates=tuple(row["candidates"]),
            weights=MappingProxyType(dict(row["weights"])),
            constraints=_constraints(row["constraints"]),
            hedge=None if row["hedge"] is None else Hedge(**row["hedge"]),
        )
        for row in rows.policies
    }


def _constraints(stored: Mapping[str, Any]) -> Constraints:
    cost = stored.get("max_cost_usd")
    return Constraints(
        max_cost_usd=None if cost is None else Decimal(cost),
        first_token_ms=stored.get("first_token_ms"),
        privacy=stored.get("privacy", "any"),
    )


# --- models -----------------------------------------------------------------------------------------


def _models(
    rows: Rows, backends: _Backends, policies: Mapping[str, Policy]
) -> tuple[dict[str, Model], dict[str, Model]]:
    """Return the models by id, and by id and alias."""
    places = _deployments(rows, backends)
    declared = {row["id"]: row for row in rows.models if row["origin"] == ""}
    found: dict[str, list[Row]] = {}
    for row in sorted(rows.models, key=lambda row: (row["id"], _FOUND_ORDER.get(row["source"], 3), row["origin"])):
        if row["origin"] != "":
            found.setdefault(row["id"], []).append(row)

    owners = _owners(declared, policies)
    models: dict[str, Model] = {}
    for row in declared.values():
        own = places.get((row["id"], ""), ())
        behind = _behind(row["id"], own, found, places)
        models[row["id"]] = _model([row], own or _merged(behind, places), owners, behind)
    reserved = owners.keys() | policies.keys() | {policy.name for policy in BUILT_IN_POLICIES}
    for name, reports in found.items():
        served = _merged(reports, places)
        if name not in reserved and served:
            models[name] = _model([row for row in reports if places.get((name, row["origin"]))], served, owners)
    models = {name: _adapted(model, models) for name, model in models.items()}

    names = dict(models)
    for model in models.values():
        for alias in model.aliases:
            names[alias] = model
        _check_fallbacks(model, models)
    if cycle := find_cycle({model.id: model.fallbacks for model in models.values()}):
        raise InvalidCatalog(f"The fallbacks form a circle: {' → '.join(cycle)}.")
    return models, names


def _owners(declared: Mapping[str, Row], policies: Mapping[str, Policy]) -> dict[str, str]:
    """Return the declared model's id by each name it goes by."""
    owners: dict[str, str] = {}
    for row in declared.values():
        for name in (row["id"], *row["aliases"]):
            if name in policies:
                raise InvalidCatalog(f"The name {name!r} stands for a model and for a policy.")
            if owners.setdefault(name, row["id"]) != row["id"]:
                raise InvalidCatalog(f"The name {name!r} stands for two models: {owners[name]!r} and {row['id']!r}.")
    return owners


def _check_fallbacks(model: Model, models: Mapping[str, Model]) -> None:
    for name in model.fallbacks:
        if name not in models:
            raise InvalidCatalog(f"The model {model.id!r} falls back to {name!r}, which is not in the registry.")


def _deployments(rows: Rows, backends: _Backends) -> dict[tuple[str, str], tuple[Deployment, ...]]:
    """Return each model row's deployments, by its id and origin."""
    places: dict[tuple[str, str], tuple[Deployment, ...]] = {}
    for row in rows.deployments:
        if (row["source"], row["backend"]) not in backends.canonical:
            raise InvalidCatalog(f"The model {row['model']!r} is deployed on {row['backend']!r}, which is no backend.")
        backend = backends.of(row)
        if backend is None:
            continue
        moved = row["id"] if backend.name == row["backend"] else f"{row['model']}@{backend.name}"
        deployment = Deployment(
            id=moved,
            model=row["model"],
            backend=backend,
            upstream_model=row["upstream_model"],
            price=Price(row["price_input"], row["price_cached_input"], row["price_output"]),
            limits=Limits(row["max_concurrency"], row["rpm"], row["tpm"]),
            weight=row["weight"],
            priority=row["priority"],
        )
        key = (row["model"], row["origin"])
        places[key] = (*places.get(key, ()), deployment)
    return places


def _merged(reports: Iterable[Row], places: Mapping[tuple[str, str], tuple[Deployment, ...]]) -> tuple[Deployment, ...]:
    """Return the deployments of a found model, one for each place however often it was found."""
    merged: dict[str, Deployment] = {}
    for row in reports:
        for deployment in places.get((row["id"], row["origin"]), ()):
            merged.setdefault(deployment.id, deployment)
    return tuple(merged.values())


def _behind(
    name: str,
    own: Sequence[Deployment],
    found: Mapping[str, Sequence[Row]],
    places: Mapping[tuple[str, str], Sequence[Deployment]],
) -> list[Row]:
    """Return the reports of what a declared model's deployments serve: they know what it leaves open."""
    if not own:
        return [row for row in found.get(name, ()) if places.get((name, row["origin"]))]
    return [
        row
        for deployment in own
        for row in found.get(deployment.upstream_model, ())
        if any(place.backend is deployment.backend for place in places.get((row["id"], row["origin"]), ()))
    ]


def _model(
    rows: Sequence[Row], deployments: tuple[Deployment, ...], owners: Mapping[str, str], behind: Sequence[Row] = ()
) -> Model:
    """Build a model from what its row, or each backend that serves it, says of it, or else from what is behind it.

    Backends may differ: the largest context counts, since a backend that a prompt does not fit
    says so and the next one is asked, and only what every backend can do is promised.
    """
    first = rows[0]
    most = _largest("max_output_tokens", rows, behind)
    told = _told(rows) or _told(behind)
    return Model(
        id=first["id"],
        deployments=tuple(replace(one, max_output_tokens=most) for one in deployments),
        aliases=tuple(first["aliases"]),
        context_length=_largest("context_length", rows, behind),
        max_output_tokens=most,
        capabilities=frozenset.intersection(*told) if told else frozenset(),
        quality=MappingProxyType(dict(first["quality"])),
        fallbacks=tuple(dict.fromkeys(owners.get(name, name) for name in first["fallbacks"])),
        created=min(row["created_at"] for row in rows) // 1000,
        parent=next((row["parent"] for row in (*rows, *behind) if row.get("parent")), None),
    )


def _adapted(model: Model, models: Mapping[str, Model]) -> Model:
    """Return an adapter with what it does not say of itself taken from its parent; any other model as it is."""
    parent = models.get(model.parent or "")
    if parent is None or parent is model:
        return model
    prices = {place.backend.name: place.price for place in parent.deployments}
    most = model.max_output_tokens or parent.max_output_tokens
    return replace(
        model,
        context_length=model.context_length or parent.context_length,
        max_output_tokens=most,
        capabilities=model.capabilities or parent.capabilities,
        deployments=tuple(
            replace(
                place,
                max_output_tokens=most,
                price=prices.get(place.backend.name, place.price) if place.price == _UNPRICED else place.price,
            )
            for place in model.deployments
        ),
    )


def _told(rows: Iterable[Row]) -> list[frozenset[str]]:
    return [frozenset(row["capabilities"]) for row in rows if row["capabilities"]]


def _largest(field: str, *reports: Iterable[Row]) -> int | None:
    """Return the largest value in the first reports that have any."""
    for rows in reports:
        told: list[int] = [row[field] for row in rows if row[field] is not None]
        if told:
            return max(told)
    return None


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Return a path that ends where it began, or None where there is none."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        on_path: set[str] = set()
        stack = [(start, iter(edges[start]))] if start not in done else []
        path.extend(name for name, _ in stack)
        on_path.update(path)
        while stack:
            name, following = stack[-1]
            after = next(following, None)
            if after is None:
                stack.pop()
                path.pop()
                on_path.discard(name)
                done.add(name)
            elif after in on_path:
                return [*path[path.index(after) :], after]
            elif after not in done and after in edges:
                path.append(after)
                on_path.add(after)
                stack.append((after, iter(edges[after])))
    return None
