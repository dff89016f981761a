"""`python -m scripts.vllm` makes the environment of vLLM where it is missing; `--record` records anew what it says."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.vllm.environment import ROOT, VLLM, Environment
from scripts.vllm.exchange import scrubbed, write_exchange
from scripts.vllm.scenes import ABOUT, GROUPS, play

__all__ = ["main"]

_RECORDINGS = ROOT / "tests" / "cassettes" / "cluster"
_WRITTEN = "\nEnvoy is real; what the picker says is written from llm-d's source."


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, record what is asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.vllm", description=__doc__)
    parser.add_argument("--record", action="store_true", help="play every scene and write what came over the wire")
    parser.add_argument("--only", action="append", default=[], choices=[*GROUPS], help="a group of scenes; repeatable")
    options = parser.parse_args(arguments)
    there = Environment()
    if not there.ready:
        began = time.monotonic()
        print(f"vllm: making {there.folder.name} with {VLLM} (3.4 GB, a few minutes)", flush=True)
        try:
            there.make()
        except RuntimeError as error:
            print(f"vllm: {error}", file=sys.stderr)
            return 1
        print(f"vllm: {there.folder.name} is ready ({time.monotonic() - began:.0f}s)")
    there.furnish()
    if options.record:
        asyncio.run(_record(options.only))
    return 0


async def _record(groups: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async for name, exchange in play(Path(folder), *groups):
            about = f"{ABOUT[name]}{_WRITTEN}" if name.startswith("picker_") else ABOUT[name]
            write_exchange(_RECORDINGS / f"{name}.yaml", about, scrubbed(exchange))
            print(f"recorded: {name} ({exchange.status}, {exchange.ends})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
