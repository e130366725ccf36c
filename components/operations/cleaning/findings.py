"""What a cleaning would remove and why, and what it leaves alone and why."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["scratch", "logs", "clones", "run-cache", "cache"]
KINDS: tuple[Kind, ...] = ("scratch", "logs", "clones", "run-cache", "cache")
DAY = 86400.0


@dataclass(frozen=True)
class Removable:
    """A file or folder that nothing needs. `size` is in bytes."""

    kind: Kind
    path: Path
    size: int
    why: str


@dataclass
class Findings:
    """All that may go, and a sentence for each kind that is left alone as a whole."""

    removable: list[Removable] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all that may go."""
        return sum(item.size for item in self.removable)


@dataclass(frozen=True)
class Extent:
    """The bytes below a path, and when any of it was last written, in seconds since the epoch."""

    size: int
    written: float


def extent(path: Path) -> Extent:
    """Size and last writing of a file or of all in a folder. Links are not followed. What vanishes meanwhile counts as nothing."""
    size, written = 0, 0.0
    waiting = [path]
    while waiting:
        here = waiting.pop()
        try:
            found = here.lstat()
            if stat.S_ISDIR(found.st_mode):
                waiting += [Path(entry.path) for entry in os.scandir(here)]
        except OSError:
            continue
        # A folder's own time changes when something in it is removed, which is a sign of life as well.
        written = max(written, found.st_mtime)
        size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return Extent(size, written)
