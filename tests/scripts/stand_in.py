"""A session of `make dev` in a process of its own, with stand-ins for the services."""

from __future__ import annotations

import argparse
import asyncio
import sys

from scripts.dev.console import Console
from scripts.dev.session import Session
from scripts.dev.settings import DevSettings


def _session(behaviours: dict[str, str]) -> int:
    settings = DevSettings()
    here = (sys.executable, "-m", "tests.scripts.stand_in_service")
    agent = (*here, "agent", "--port", str(settings.agent_port), "--behaviour", behaviours["agent"])
    router = (*here, "router", "--port", str(settings.router_port), "--behaviour", behaviours["router"])
    return asyncio.run(Session(settings, Console(sys.stdout), agent, router).run())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--agent", default="well")
    parser.add_argument("--router", default="well")
    chosen = parser.parse_args()
    sys.exit(_session({"agent": chosen.agent, "router": chosen.router}))
