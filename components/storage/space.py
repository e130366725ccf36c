"""Bytes on disk: what folders hold, what file systems have left, and what DVC's cache would take of the data."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.checkout import Checkout

if TYPE_CHECKING:
    from components.storage.data_version import DataState

LINKED_ABOVE_BYTES = 1_000_000_000  # larger files are linked where the file system can: a copy would take as much disk, and minutes


@dataclass(frozen=True)
class Cache:
    """DVC's cache. With `copies`, a file in the checkout and its copy in the cache take their bytes twice; else they share blocks."""

    folder: Path
    copies: bool


def disk_of(folder: Path) -> tuple[int, int]:
    """The file system of a folder that need not exist yet: its device number, and the bytes that this user may still write to it."""
    existing = existing_folder(folder)
    return existing.stat().st_dev, shutil.disk_usage(existing).free


def existing_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists. Links are followed: a linked folder lies where its files do."""
    resolved = folder.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.is_dir())


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    return sum((Path(above) / name).stat(follow_symlinks=False).st_size for above, _, names in os.walk(folder) for name in names)


def dvc_cache(checkout: Checkout) -> Cache:
    """The cache: in the checkout, or where DVC's settings put it."""
    if not checkout.dvc.is_dir():
        return Cache(checkout.dvc / "cache", copies=True)
    from components.storage.repository import open_repository

    with open_repository(checkout) as repository:
        database = repository.cache.local
        return Cache(Path(repository.cache.local_cache_dir), copies=_copies(database, checkout))


def data_growth(checkout: Checkout, state: DataState | None, cache: Cache) -> tuple[int, int]:
    """Bytes that a run adds to data/ and to DVC's cache when it fetches missing data or commits changed ones."""
    if state is None:
        return 0, 0
    changed = sum((checkout.root / name).stat().st_size for name in (*state.changed, *state.added))
    if changed or not state.missing:
        present = tree_bytes(checkout.data) if state.version is not None and not state.cached else 0
        return 0, (changed or present) if cache.copies else 0
    recorded = yaml.safe_load(checkout.data_version.read_text(encoding="utf-8"))["outs"][0].get("size", 0)
    fetched = max(0, int(recorded) - tree_bytes(checkout.data))
    return (fetched if cache.copies else 0), (0 if state.cached else fetched)


def _copies(database: Any, checkout: Checkout) -> bool:
    """Whether the first kind of link in DVC's settings that works here is a copy."""
    from dvc_objects.fs.generic import test_links

    source, target = existing_folder(Path(database.path)), existing_folder(checkout.root)
    try:
        working = test_links(list(database.cache_types), database.fs, str(source), database.fs, str(target / "unused"))
    except OSError:  # a folder that nobody may write to: then nothing is written there either
        return True
    return not working or working[0] == "copy"
