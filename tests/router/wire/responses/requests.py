"""Responses requests for the tests of this room."""

from __future__ import annotations

import json
from typing import Any

from router.types import InferenceRequest
from router.wire.responses.parse import parse_responses
from tests.support.nouns import CALLER


def responses_request(**fields: Any) -> InferenceRequest:
    """Return the request that a body with `fields` makes."""
    body = {"model": "m", "input": "Hi", **fields}
    return parse_responses(json.dumps(body).encode(), "req_1", CALLER, {})
