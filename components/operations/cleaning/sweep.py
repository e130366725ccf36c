"""The cleaning of a checkout: looks, and removes what was found. `mmalign clean` and each nightly run call it.

While a run or a stage is under way, here or in a clone, neither scratch nor DVC's cache is touched. What git tracks is never removed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from components.config.clean import CleanSettings
from components.errors import StageFault
from components.operations.cleaning.cache import cache_folder, look_at_cache, note_use, objects
from components.operations.cleaning.findings import Findings, Removable
from components.operations.cleaning.folders import clones, is_busy, look_at_folders, remove_folder
from components.operations.cleaning.needed import in_commits, in_registry, in_waiting_records, in_worktree, tracked
from components.processes.guard import Lock, try_lock
from components.storage.repository import open_repository


def look(root: Path, settings: CleanSettings, now: float) -> Findings:
    """What a cleaning at `now` (seconds since the epoch) would remove."""
    root = root.resolve()
    found = look_at_folders(root, settings, now, ())
    why = _cache_is_spared(root, settings, ())
    if why is None:
        try:
            needed = _needed(root)
            with open_repository(root) as repository:
                _join(found, _look_at_cache(repository, root, needed, settings, now))
        except StageFault as error:
            why = str(error)
    if why is not None:
        found.spared.append(f"DVC's cache is left alone: {why}")
    return _without_tracked(root, found)


def sweep(root: Path, settings: CleanSettings, now: float, *, turns: Collection[Path] = ()) -> Findings:
    """Remove what `look` finds; what was removed is returned, and what could not be is among the sentences.

    The caller may hold the run locks of the checkout or of clones, which it names in `turns`. The checkout's is taken otherwise, for as
    long as it lasts, so that no run starts over it.
    """
    from dvc.lock import LockError

    root = root.resolve()
    with _turn(root, {turn.resolve() for turn in turns}) as held:
        found = _remove(_without_tracked(root, look_at_folders(root, settings, now, held)))
        why = _cache_is_spared(root, settings, held)
        if why is None:
            try:
                needed = _needed(root)  # takes its time, so before DVC's lock
                # Without waiting for ever: a night must not hang on somebody's `dvc push`, and the next one cleans as well.
                with open_repository(root) as repository, repository.lock:
                    # Looked at under the lock: what DVC has just put there is named by a file by now.
                    _join(found, _remove(_without_tracked(root, _look_at_cache(repository, root, needed, settings, now))))
                    _note_use(repository, root, now)
            except LockError:
                why = "another process holds DVC's lock"
            except StageFault as error:
                why = str(error)
        if why is not None:
            found.spared.append(f"DVC's cache is left alone: {why}")
    return found


@contextmanager
def _turn(root: Path, held: Collection[Path]) -> Iterator[Collection[Path]]:
    """The folders whose turn is ours while the block runs: those that the caller holds, and the checkout where nobody else does."""
    lock: Lock | None = None if root in held else try_lock(root / ".mmalign" / "locks" / "run.lock")
    try:
        yield {*held, root} if lock is not None else held
    finally:
        if lock is not None:
            lock.release()


def _cache_is_spared(root: Path, settings: CleanSettings, turns: Collection[Path]) -> str | None:
    """Why the cache must not be looked at now; None where it may."""
    if settings.cache_days == 0:
        return "clean.cache_days is 0"
    if not (root / ".dvc").is_dir():
        return "this is no DVC repository"
    if is_busy(root, turns):
        return "a run is under way"
    busy = [clone.name for clone in clones(root) if is_busy(clone, turns)]
    if busy:
        return f"the run in clone {busy[0]} is under way"
    if _dvc_works(root):
        return "DVC works on its files"
    return None


def _dvc_works(root: Path) -> bool:
    """Whether a live process stands in DVC's file of path locks, as while a stage runs under a bare `dvc repro`."""
    try:
        entries = json.loads((root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))
        holders = [*entries.get("write", {}).values(), *(one for readers in entries.get("read", {}).values() for one in readers)]
        return any(psutil.pid_exists(int(holder["pid"])) for holder in holders)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True  # damaged or just being written: better not


def _needed(root: Path) -> set[str]:
    checkouts = [root, *clones(root)]
    commits = {value for checkout in checkouts for value in in_commits(checkout)}
    return commits | in_registry(root) | in_waiting_records(checkouts)


def _in_use(root: Path) -> set[str]:
    return {value for checkout in (root, *clones(root)) for value in in_worktree(checkout)}


def _look_at_cache(repository: Any, root: Path, needed: set[str], settings: CleanSettings, now: float) -> Findings:
    folder = cache_folder(repository, root)
    if folder is None:
        raise StageFault(f"it lies in {repository.cache.local.path}, where other checkouts may use it")
    return look_at_cache(folder, root, needed, _in_use(root), settings.cache_days, now)


def _note_use(repository: Any, root: Path, now: float) -> None:
    folder = cache_folder(repository, root)
    assert folder is not None, "it was looked at before"
    note_use(root, _in_use(root), objects(folder), now)


def _without_tracked(root: Path, found: Findings) -> Findings:
    """Leave out what git knows, and folders with something of it."""
    known = tracked(root)
    holding = {folder for path in known for folder in path.parents}
    for item in found.removable:
        if item.path in known or item.path in holding:
            found.spared.append(f"{item.path.relative_to(root)} is left alone: git tracks it")
    found.removable = [item for item in found.removable if item.path not in known and item.path not in holding]
    return found


def _remove(found: Findings) -> Findings:
    """Remove in the order that was found; the findings that are gone now."""
    gone: list[Removable] = []
    for item in found.removable:
        try:
            remove_folder(item.path)
        except OSError as error:
            found.spared.append(f"{item.path} can't be removed: {error.strerror or error}")
        else:
            gone.append(item)
    return Findings(gone, found.spared)


def _join(found: Findings, more: Findings) -> None:
    found.removable += more.removable
    found.spared += more.spared
