"""`python -m scripts.dev`, which is what `make dev` runs."""

from __future__ import annotations

import asyncio
import sys

from pydantic import ValidationError

from scripts.dev.console import Console
from scripts.dev.session import Session
from scripts.dev.settings import DevSettings


def main() -> int:
    """Run until Ctrl-C, SIGTERM, or the death of a service; return the exit status."""
    try:
        settings = DevSettings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            print(f"make dev: {problem['loc'][0]}: {problem['msg']}", file=sys.stderr)
        return 2
    return asyncio.run(Session(settings, Console(sys.stdout)).run())


if __name__ == "__main__":
    sys.exit(main())
