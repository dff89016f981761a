"""`python -m router.workers`: what `python -m router` becomes where there are several workers.

A process of its own image, because the start-up checks load the registry and its libraries, which
the parent would hold on to for nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from router.workers.seat import Seat, remove_folder
from router.workers.supervisor import Supervisor

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Keep the workers; return the exit status.

    Args:
        arguments: One JSON object: `workers`, `listener`, `metrics`, `drain`, `stall`, `log_level`.
    """
    plan = json.loads(arguments[0])
    metrics = Path(plan["metrics"])

    def command(index: int, link: int) -> Sequence[str]:
        seat = Seat(index, plan["workers"], plan["listener"], link, metrics)
        return [sys.executable, "-m", "router", *seat.arguments()]

    supervisor = Supervisor(
        command,
        plan["workers"],
        inherited=(plan["listener"],),
        drain=plan["drain"],
        stall=plan["stall"],
        log_level=plan["log_level"],
    )
    try:
        return supervisor.run()
    finally:
        remove_folder(metrics)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
