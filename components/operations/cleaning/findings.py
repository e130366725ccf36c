"""The findings of a cleaning: removable files and spared kinds, each with its reason."""

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
    """A file or folder that nothing needs. `size` is in bytes; `why` is the reason."""

    kind: Kind
    path: Path
    size: int
    why: str


@dataclass
class Findings:
    """All removable files, and a sentence for each kind or folder that the cleaning spares."""

    removable: list[Removable] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of all removable files."""
        return sum(item.size for item in self.removable)


@dataclass(frozen=True)
class Extent:
    """The bytes below a path, and its last write in seconds since the epoch."""

    size: int
    written: float


def extent(path: Path) -> Extent:
    """Size and last write of a file or a folder. Links are not followed. Files that vanish meanwhile count as nothing."""
    size, written = 0, 0.0
    waiting = [path]
    while waiting:
        here = waiting.pop()
        try:
            status = here.lstat()
            if stat.S_ISDIR(status.st_mode):
                waiting += [Path(entry.path) for entry in os.scandir(here)]
        except OSError:
            continue
        # A folder's own time changes when a file in it is removed, which is a sign of life too.
        written = max(written, status.st_mtime)
        size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Extent(size, written)
