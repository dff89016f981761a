"""`make cassettes`: record anew what external providers answer, for each whose key is set.

The real router asks the real providers what the tests ask it. No key, no header that names an account and no other
model of a provider's list gets into a cassette; look at the difference before you commit it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from router.registry.providers import PROVIDERS
from tests.support.cassettes import CASSETTES, SCENARIOS, Scenario, play, recorder
from tests.support.router import live_router

__all__ = ["main", "only"]


def only(scenario: Scenario, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with no other provider in it, and this one at its own address."""
    names = {name for row in PROVIDERS for name in (row.key_env, row.base_url_env, row.models_env)}
    return {name: value for name, value in environment.items() if name not in names or name == scenario.key_env}


async def _record(scenario: Scenario, key: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / scenario.file
        with recorder(scenario, "all", key).use_cassette(str(new)):
            async with live_router(Path(folder), transport="httpx") as router:
                played = await play(router, scenario)
        for answer in (played.whole, played.streamed, played.called):
            if answer.status_code != 200:
                raise SystemExit(f"failed: {scenario.name} answered {answer.status_code}: {answer.text[:300]}")
        return new.read_text("utf-8")


def main() -> int:
    """Record the cassettes of all providers whose keys are set; return the exit status."""
    before = dict(os.environ)  # noqa: TID251 - it is the environment that is arranged here
    recorded = 0
    for scenario in SCENARIOS:
        key = before.get(scenario.key_env)
        if not key:
            print(f"kept: {scenario.file} ({scenario.key_env} is not set)")
            continue
        os.environ.clear()  # noqa: TID251
        os.environ.update(only(scenario, before))  # noqa: TID251
        text = asyncio.run(_record(scenario, key))
        if key in text:
            raise SystemExit(f"failed: the key of {scenario.name} is in what was recorded; nothing is written")
        today = datetime.now(timezone.utc).date()
        (CASSETTES / scenario.file).write_text(f"# Recorded with `make cassettes` on {today}.\n{text}", "utf-8")
        print(f"recorded: {scenario.file}")
        recorded += 1
    return 0 if recorded else 1


if __name__ == "__main__":
    sys.exit(main())
