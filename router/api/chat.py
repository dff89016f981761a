"""`POST /v1/chat/completions`."""

from __future__ import annotations

from router.api.respond import Resource
from router.interfaces import Front
from router.wire.chat import parse_chat
from router.wire.openai import openai_error, openai_error_event

__all__ = ["CHAT"]

CHAT = Resource(Front(parse_chat, openai_error, openai_error_event))
