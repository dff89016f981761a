"""What every client's program shares: where the router is, which step to do, and how to tell what came of it.

A program runs in its client's own environment as `python PROGRAM STEP`; it prints one JSON object.
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

ENVIRONMENT = os.environ  # noqa: TID251 - a program of its own, told by its environment where the router is
URL = ENVIRONMENT["CLIENT_ROUTER_URL"]
MODEL = ENVIRONMENT["CLIENT_MODEL"]
KEY = ENVIRONMENT["CLIENT_KEY"]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def run(steps: Mapping[str, Callable[[], Any]]) -> None:
    """Do the step that the command line names and print what it returns; `steps` lists them."""
    if sys.argv[1:] == ["steps"]:
        print(json.dumps(sorted(steps)))
        return
    told = steps[sys.argv[1]]()
    if inspect.isawaitable(told):
        told = asyncio.run(_wait(told))
    print(json.dumps(told))


async def _wait(told: Any) -> Any:
    return await told
