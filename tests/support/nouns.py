"""The router's nouns with whatever a test does not care about filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from router.types import Backend, Caller, Deployment, InferenceRequest, Model, Wishes
from router.wire.chat import parse_chat

CALLER = Caller(id="key_1", name="tests")


def make_backend(name: str = "b", **fields: Any) -> Backend:
    """Return an external OpenAI backend, but for `fields`."""
    return Backend(**{"name": name, "dialect": "openai", "base_url": "http://b/v1", "tier": "external", **fields})


def make_deployment(id: str = "m@b", backend: Backend | None = None, **fields: Any) -> Deployment:  # noqa: A002
    """Return a deployment; its model and backend are named in its id."""
    model, _, place = id.partition("@")
    return Deployment(id, model, backend or make_backend(place), fields.pop("upstream_model", "up"), **fields)


def make_model(id: str, *deployments: Deployment, **fields: Any) -> Model:  # noqa: A002
    """Return a model."""
    return Model(id, deployments, **fields)


def chat_request(
    headers: Mapping[str, str] | None = None, caller: Caller = CALLER, wishes: Wishes | None = None, **fields: Any
) -> InferenceRequest:
    """Return the request that a chat body with `fields` makes."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    request = parse_chat(json.dumps(body).encode(), "req_1", caller, headers or {})
    return request if wishes is None else replace(request, wishes=wishes)
