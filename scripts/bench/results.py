"""What a run has measured: raw values by workload and gateway, and their medians."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ALONE", "INSTALLED", "Results"]

FORMAT = 1
ALONE = "alone"
"""The workload under which start time and memory of a gateway started alone are kept."""
INSTALLED = "installed"
"""The workload under which installed sizes are kept."""

Measured = Mapping[str, float | None]


@dataclass(slots=True)
class Results:
    """A run's results.

    Args:
        conditions: Where and how they were measured.
        gateways: Version and remark of each gateway.
        left_out: What was not measured and why, one line each.
        values: By workload and gateway, what each round measured.
        faults: The first error of each measurement that had errors.
    """

    conditions: dict[str, Any] = field(default_factory=dict)
    gateways: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    values: dict[str, dict[str, list[dict[str, float | None]]]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, workload: str, gateway: str, measured: Measured) -> None:
        """Keep what one round has measured."""
        self.values.setdefault(workload, {}).setdefault(gateway, []).append(dict(measured))

    def all(self, workload: str, gateway: str, name: str) -> list[float]:
        """Return one quantity of all rounds; rounds without it are left out."""
        rounds = self.values.get(workload, {}).get(gateway, [])
        return [value for measured in rounds if (value := measured.get(name)) is not None]

    def median(self, workload: str, gateway: str, name: str) -> float | None:
        """Return the median of one quantity over the rounds; None where it was never measured."""
        found = self.all(workload, gateway, name)
        return statistics.median(found) if found else None

    def errors(self, gateway: str, workload: str | None = None) -> int:
        """Return how many answers were not good, in one workload or in all."""
        names = [workload] if workload else list(self.values)
        return int(sum(sum(self.all(name, gateway, "errors")) for name in names))

    def write(self, path: Path) -> None:
        """Write everything as JSON, one measurement a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"format": FORMAT, **asdict(self)}
        values = whole.pop("values")
        lines = [
            f"{json.dumps(workload)}: {{\n"
            + ",\n".join(
                f"    {json.dumps(gateway)}: [\n      " + ",\n      ".join(map(json.dumps, rounds)) + "\n    ]"
                for gateway, rounds in gateways.items()
            )
            + "\n  }"
            for workload, gateways in values.items()
        ]
        head = json.dumps(whole, indent=1).removesuffix("\n}")
        path.write_text(f'{head},\n "values": {{\n  ' + ",\n  ".join(lines) + "\n }\n}\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return the results in a file.

        Raises:
            ValueError: It holds something else.
        """
        whole = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(whole, dict) or whole.pop("format", None) != FORMAT:
            raise ValueError(f"{path} holds no results of this benchmark")
        return cls(**whole)
