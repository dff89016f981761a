"""`POST /v1/completions`."""

from __future__ import annotations

from router.api.respond import Resource
from router.interfaces import Front
from router.wire.completions import parse_completions
from router.wire.openai import openai_error, openai_error_event

__all__ = ["COMPLETIONS"]

COMPLETIONS = Resource(Front(parse_completions, openai_error, openai_error_event))
