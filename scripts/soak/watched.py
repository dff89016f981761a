"""The router under watch: `python -m scripts.soak.watched FILE` is `python -m router` and a thread that counts.

The thread writes a line of JSON every few seconds: how many asyncio tasks are unfinished, and how many objects the
garbage collector knows. No route tells either, and neither can be seen from outside the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from pathlib import Path

from router.__main__ import main

__all__ = ["watch"]

_INTERVAL = 5.0


def watch(path: Path) -> None:
    """Write what there is to count, again and again."""
    with path.open("a", encoding="utf-8") as sink:
        while True:
            time.sleep(_INTERVAL)
            objects = gc.get_objects()
            tasks = sum(isinstance(thing, asyncio.Task) and not thing.done() for thing in objects)
            line = {"time": time.time(), "tasks": tasks, "objects": len(objects)}
            del objects
            sink.write(json.dumps(line) + "\n")
            sink.flush()


if __name__ == "__main__":
    threading.Thread(target=watch, args=(Path(sys.argv[1]),), daemon=True).start()
    sys.exit(main())
