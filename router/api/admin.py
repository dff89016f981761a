"""`/admin/v1/*`: what `routerctl` does, over HTTP, for who holds the admin key. Thin over the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from router.api.agents import bearer_is, in_registry, read_json
from router.gateway import CatalogReader
from router.registry import views
from router.registry.catalog import InvalidCatalog
from router.registry.keys import objective_name
from router.registry.manifest import InvalidManifest, dump_manifest, parse_manifest, plain
from router.registry.store import RegistryStore
from shared.asgi import Scope, header, read_body
from shared.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated

__all__ = ["KeyRequest", "admin_router"]

_MANIFEST_LIMIT = 8 * 1024 * 1024
_YAML = "application/yaml"


class KeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] = "unnamed"
    models: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)] = ["*"]
    objective: Annotated[str, AfterValidator(objective_name)] | None = None


def admin_router(
    store: Callable[[Scope], RegistryStore], catalog: Callable[[Scope], CatalogReader], key: str | None
) -> APIRouter:
    """Return the routes.

    Args:
        store: Finds the registry that a request's application has opened.
        catalog: Finds the catalog, which is refreshed after each change.
        key: The admin key; None shuts the routes.
    """

    def admit(request: Request) -> None:
        if key is None:
            error = Forbidden("The admin routes are shut: set ROUTER_ADMIN_KEY to open them.")
            error.code = "admin_key_not_set"
            raise error
        if not bearer_is(request, key):
            raise Unauthenticated("The admin key is missing or wrong; send it as `Authorization: Bearer …`.")

    router = APIRouter(prefix="/admin/v1", tags=["admin"], dependencies=[Depends(admit)])
    _add_lists(router, store, catalog)
    _add_keys(router, store, catalog)
    _add_manifest(router, store, catalog)
    return router


def _list(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(items)}


def _add_lists(
    router: APIRouter, store: Callable[[Scope], RegistryStore], catalog: Callable[[Scope], CatalogReader]
) -> None:
    @router.get("/models")
    async def models(request: Request) -> dict[str, Any]:
        """List the models in force, with their deployments."""
        return _list(views.model_view(model) for model in catalog(request.scope).current.models.values())

    @router.get("/backends")
    async def backends(request: Request) -> dict[str, Any]:
        """List the backends in force, and what became of the last look at each that is asked what it serves."""
        looks = await in_registry(store(request.scope).looks)
        return _list(views.backends_view(catalog(request.scope).current, looks))

    @router.get("/policies")
    async def policies(request: Request) -> dict[str, Any]:
        """List the policies in force, with the models that each may choose from."""
        now = catalog(request.scope).current
        return _list(views.policy_view(policy, now.members(policy)) for policy in now.policies.values())

    @router.get("/agents")
    async def agents(request: Request) -> dict[str, Any]:
        """List the agents that have announced themselves."""
        return _list(views.agent_view(row) for row in await in_registry(store(request.scope).agents))

    @router.get("/usage")
    async def usage(request: Request, since: str | None = None) -> dict[str, Any]:
        """Sum requests, tokens and cost by key and model, `since` a date or for a time such as `24h`."""
        try:
            moment = None if since is None else views.parse_moment(since)
        except ValueError as error:
            raise InvalidRequest(f"Invalid 'since': {error}.", param="since") from error
        totals = await in_registry(store(request.scope).usage_totals, moment)
        return _list(views.usage_view(total) for total in totals)


def _add_keys(
    router: APIRouter, store: Callable[[Scope], RegistryStore], catalog: Callable[[Scope], CatalogReader]
) -> None:
    @router.get("/keys")
    async def keys(request: Request) -> dict[str, Any]:
        """List the keys, revoked ones too; none can be read back."""
        return _list(views.key_view(row) for row in await in_registry(store(request.scope).api_keys))

    body = {"content": {"application/json": {"schema": KeyRequest.model_json_schema()}}}

    @router.post("/keys", openapi_extra={"requestBody": body})
    async def create_key(request: Request) -> dict[str, Any]:
        """Make a key; this answer is the only one that holds it."""
        wanted = await read_json(request, KeyRequest)
        made = await in_registry(store(request.scope).create_key, wanted.name, wanted.models, wanted.objective)
        await catalog(request.scope).refresh()
        return views.new_key_view(made)

    @router.delete("/keys/{id}")
    async def revoke_key(request: Request, id: str) -> dict[str, Any]:  # noqa: A002 - the path's name
        """Revoke a key for good."""
        row = await in_registry(store(request.scope).revoke_key, id)
        if row is None:
            raise NotFound(f"There is no key with the id {id!r}.", param="id")
        await catalog(request.scope).refresh()
        return views.key_view(row)


def _add_manifest(
    router: APIRouter, store: Callable[[Scope], RegistryStore], catalog: Callable[[Scope], CatalogReader]
) -> None:
    body = {"required": True, "content": {_YAML: {}, "application/json": {}}}

    @router.post("/apply", openapi_extra={"requestBody": body})
    async def apply(request: Request) -> dict[str, Any]:
        """Make a manifest (YAML or JSON) the whole declared state; an error changes nothing."""
        text = await read_body(request.scope, request.receive, _MANIFEST_LIMIT)
        try:
            manifest = await in_registry(parse_manifest, text.decode())
            changes = await in_registry(store(request.scope).apply, manifest)
        except UnicodeDecodeError as error:
            raise InvalidRequest("The manifest is not UTF-8 text.") from error
        except (InvalidManifest, InvalidCatalog) as error:
            raise InvalidRequest(str(error)) from error
        await catalog(request.scope).refresh()
        return views.changes_view(changes)

    @router.get("/export")
    async def export(request: Request) -> Response:
        """Return the declared state as a manifest: YAML, or JSON to who accepts `application/json` alone."""
        manifest = await in_registry(store(request.scope).export)
        accepted = header(request.scope, b"accept") or ""
        if "application/json" in accepted and "yaml" not in accepted:
            return JSONResponse(plain(manifest))
        return Response(dump_manifest(manifest), media_type=_YAML)
