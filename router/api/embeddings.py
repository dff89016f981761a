"""`POST /v1/embeddings`."""

from __future__ import annotations

from router.api.respond import Resource
from router.interfaces import Front
from router.wire.embeddings import parse_embeddings
from router.wire.openai import openai_error, openai_error_event

__all__ = ["EMBEDDINGS"]

EMBEDDINGS = Resource(Front(parse_embeddings, openai_error, openai_error_event))
