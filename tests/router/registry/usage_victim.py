"""A process that writes outcomes until it is killed, and prints each id once `write` has returned."""

from __future__ import annotations

import sys
from pathlib import Path

from router.registry.store import open_store
from router.registry.usage import UsageWriter
from router.types import Caller, Outcome

writer = UsageWriter(open_store(sys.argv[1]), Path(sys.argv[2]), interval=0.002)
number = 0
while True:
    number += 1
    writer.write(
        Outcome(
            request_id=f"r{number}",
            decision_id=None,
            caller=Caller("key_1", "a"),
            endpoint="chat",
            asked="m",
            policy=None,
            deployment=None,
            status=200,
            error=None,
            stream=False,
            cache="off",
            usage=None,
            cost_usd=None,
            attempts=(),
            first_token_ms=None,
            duration_ms=1.0,
            overhead_ms=0.1,
        )
    )
    sys.stdout.write(f"r{number}\n")
    sys.stdout.flush()
