"""What a request loses on its way into the dialect, told once each."""

from __future__ import annotations

__all__ = ["Changes"]


class Changes:
    """Collects what is dropped or altered, in the order in which it is met.

    Args:
        told: What was dropped or altered before.
    """

    def __init__(self, told: tuple[str, ...] = ()) -> None:
        self._told = dict.fromkeys(told)

    def drop(self, field: str) -> None:
        """Note that a field does not reach the backend."""
        self._told[f"{field} dropped"] = None

    def alter(self, field: str, value: object) -> None:
        """Note that a field reaches the backend as something else than it was."""
        self._told[f"{field} set to {value}"] = None

    def note(self, change: str) -> None:
        """Note a change that is neither of both."""
        self._told[change] = None

    def told(self) -> tuple[str, ...]:
        """Return all changes, each as `FIELD WHAT`."""
        return tuple(self._told)
