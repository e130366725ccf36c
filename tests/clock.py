"""A clock that a test moves."""

from __future__ import annotations


class Clock:
    """In place of the module `time`: its monotonic clock shows `now`, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """The seconds that the test set."""
        return self.now
