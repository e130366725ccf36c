"""Folders of arrays that a run prepares once, by content key, and whose files all processes of a machine map.

The first process that asks makes the folder; others wait for it. A name covers all that the content depends on. The folders least recently
used are removed: a process that has mapped their files still reads them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from components.checkout import Checkout
from components.processes import heartbeat

RETAINED = 6  # folders of a kind: both splits or both trainings, for a few versions of the data


def prepared(checkout: Checkout, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `key` of a kind of arrays. `make` fills an empty folder, which becomes visible once it is whole."""
    parent = checkout.cache(kind)
    folder = parent / key
    if not folder.is_dir():
        parent.mkdir(parents=True, exist_ok=True)
        with heartbeat.work(f"preparing {kind}"), FileLock(parent / "lock"):
            if not folder.is_dir():
                fresh = parent / f".{key}"
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                make(fresh)
                _retire(parent)
                fresh.rename(folder)
    os.utime(folder)
    return folder


def _retire(parent: Path) -> None:
    """Remove all but the folders used last; one more is about to come."""
    folders = sorted((path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")), key=_used)
    for path in folders[: max(0, len(folders) - RETAINED + 1)]:
        shutil.rmtree(path, ignore_errors=True)


def _used(path: Path) -> float:
    return path.stat().st_mtime
