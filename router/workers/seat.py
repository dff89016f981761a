"""What the parent tells a worker process on its command line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Seat", "remove_folder"]


class Seat(NamedTuple):
    """A worker's place; the process that replaces it takes the same one.

    Attributes:
        number: The worker's number, from 0.
        of: How many workers the router has.
        listener: Descriptor of the socket that all workers accept from.
        link: Descriptor of the worker's end of its link to the parent.
        metrics: The folder in which the workers tell each other their counts; gone when the router ends.
    """

    number: int
    of: int
    listener: int
    link: int
    metrics: Path

    @property
    def first(self) -> bool:
        """Whether this worker does what one process of a router does for all."""
        return self.number == 0

    def share(self, limit: int) -> int:
        """Return this worker's part of a limit; the parts of all workers add up to it."""
        return limit // self.of + (self.number < limit % self.of)

    def arguments(self) -> list[str]:
        """Return the command line that `parse` reads."""
        return [
            f"--worker={self.number}/{self.of}",
            f"--listener={self.listener}",
            f"--link={self.link}",
            f"--metrics={self.metrics}",
        ]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Seat | None:
        """Return the seat that a command line gives, or None where a person has written it."""
        if not arguments or not arguments[0].startswith("--worker="):
            return None
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        number, _, of = given["worker"].partition("/")
        return cls(int(number), int(of), int(given["listener"]), int(given["link"]), Path(given["metrics"]))


def remove_folder(folder: Path) -> None:
    """Remove a folder of files, as far as it is there (`shutil` would load all of Python's compressors)."""
    with suppress(OSError):
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        folder.rmdir()
