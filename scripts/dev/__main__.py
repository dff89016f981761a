"""`python -m scripts.dev`, which is what `make dev` runs."""

from __future__ import annotations

import asyncio
import sys

from scripts.dev.console import Console
from scripts.dev.session import Session
from scripts.dev.settings import DevSettings


def main() -> int:
    """Run until Ctrl-C, SIGTERM, or the death of a service; return the exit status."""
    return asyncio.run(Session(DevSettings(), Console(sys.stdout)).run())


if __name__ == "__main__":
    sys.exit(main())
