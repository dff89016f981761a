"""An append-only journal in two files that take turns: what is not yet committed survives `kill -9`.

While one file's rows are being committed, new rows go to the other; a file is emptied once its
rows are committed. Each process has its own pair and holds a lock on it, so that a later start
can tell the journals of dead processes from those of living ones.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from router.registry.usage_rows import UsageRow, read_row

__all__ = ["Journal", "orphans", "read_lines"]

_log = logging.getLogger(__name__)


class Journal:
    """One process's pair of files; the caller serialises its calls.

    Args:
        stem: The files are called `<stem>.usage-<pid>-<random>-0` and `…-1`.
    """

    def __init__(self, stem: Path) -> None:
        mark = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._paths = [stem.with_name(f"{stem.name}.usage-{mark}-{turn}") for turn in (0, 1)]
        self._files: list[int] = []
        self._active = 0
        self._torn = False
        try:
            for path in self._paths:
                self._files.append(_open_locked(path))
        except OSError:
            self.close(keep=False)
            raise

    def append(self, line: bytes) -> None:
        """Append one row in a single write.

        Raises:
            OSError: It could not be written whole; a later row is not spoilt by what was.
        """
        text = (b"\n" if self._torn else b"") + line + b"\n"
        self._torn = True
        if os.write(self._files[self._active], text) != len(text):
            raise OSError("the journal took only a part of a row")
        self._torn = False

    def swap(self) -> None:
        """Let the other file, which is empty, take the next rows."""
        self._active = 1 - self._active
        self._torn = False

    def resting(self) -> Iterator[UsageRow]:
        """Yield the rows of the file that takes no rows now."""
        return read_lines(self._paths[1 - self._active])

    def empty_resting(self) -> None:
        """Empty the file that takes no rows now: they are committed."""
        os.ftruncate(self._files[1 - self._active], 0)

    def close(self, *, keep: bool) -> None:
        """Close the files, and remove them unless their rows are still needed."""
        if not keep:
            for path in self._paths:
                path.unlink(missing_ok=True)
        while self._files:
            os.close(self._files.pop())


def _open_locked(path: Path) -> int:
    # It gets its name once it is locked: before, another process would take it for an orphan.
    unnamed = path.with_name(f".{path.name}")
    file = os.open(unnamed, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(path)
    except OSError:
        os.close(file)
        raise
    return file


def orphans(stem: Path) -> Iterator[Path]:
    """Yield the journals whose process is gone; each is locked until the next one is asked for."""
    for path in sorted(stem.parent.glob(f"{glob.escape(stem.name)}.usage-*")):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        except BlockingIOError:
            continue
        finally:
            os.close(file)


def read_lines(path: Path) -> Iterator[UsageRow]:
    """Yield the rows of a journal file, without those that a crash or a full disk has cut."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield read_row(line)
            except msgspec.ValidationError as error:
                _log.error("a usage row was refused", extra={"fields": {"journal": path.name, "reason": str(error)}})
            except msgspec.DecodeError:
                continue
