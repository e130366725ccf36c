"""Cleans a checkout: inspects it, and removes the removable files. `mmalign clean` and each nightly run call it.

While a run or a stage is under way, here or in a clone, it spares scratch and DVC's cache. It never removes files that git tracks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from components.checkout import Checkout
from components.config.ops import CleanSettings
from components.errors import StageFault
from components.operations.cleaning.cache import cache_folder, inspect_cache, note_use, objects
from components.operations.cleaning.findings import Findings, Removable
from components.operations.cleaning.folders import clones, inspect_folders, is_busy, remove_folder
from components.operations.cleaning.needed import in_commits, in_registry, in_waiting_records, in_worktree, tracked
from components.processes.guard import Lock, try_lock
from components.storage.repository import open_repository


def inspect(checkout: Checkout, settings: CleanSettings, now: float) -> Findings:
    """The findings of a cleaning at `now` (seconds since the epoch). Removes nothing."""
    checkout = checkout.absolute()
    findings = inspect_folders(checkout, settings, now, ())
    why = _cache_is_spared(checkout, settings, ())
    if why is None:
        try:
            needed = _needed(checkout)
            with open_repository(checkout) as repository:
                _join(findings, _inspect_cache(repository, checkout, needed, settings, now))
        except StageFault as error:
            why = str(error)
    if why is not None:
        findings.spared.append(f"DVC's cache is spared: {why}")
    return _without_tracked(checkout, findings)


def sweep(checkout: Checkout, settings: CleanSettings, now: float, *, locked: Collection[Path] = ()) -> Findings:
    """Remove the removable files of `inspect`. Returns the removed files, with a sentence for each failure.

    The caller names in `locked` the checkout and the clones whose run locks it holds. Otherwise this takes the checkout's run lock, so that
    no run starts meanwhile.
    """
    from dvc.lock import LockError

    checkout = checkout.absolute()
    with _run_lock(checkout, {folder.resolve() for folder in locked}) as own:
        findings = _remove(_without_tracked(checkout, inspect_folders(checkout, settings, now, own)))
        why = _cache_is_spared(checkout, settings, own)
        if why is None:
            try:
                needed = _needed(checkout)  # slow, so before DVC's lock
                # With a time limit: a nightly run must not hang on a person's `dvc push`, and the next one cleans too.
                with open_repository(checkout) as repository, repository.lock:
                    # Under the lock, a file names every object that DVC has just added.
                    _join(findings, _remove(_without_tracked(checkout, _inspect_cache(repository, checkout, needed, settings, now))))
                    _note_use(repository, checkout, now)
            except LockError:
                why = "another process holds DVC's lock"
            except StageFault as error:
                why = str(error)
        if why is not None:
            findings.spared.append(f"DVC's cache is spared: {why}")
    return findings


@contextmanager
def _run_lock(checkout: Checkout, locked: Collection[Path]) -> Iterator[Collection[Path]]:
    """The folders whose run locks this process holds within the block: the caller's, and the checkout's where it is free."""
    lock: Lock | None = None if checkout.root in locked else try_lock(checkout.locks / "run.lock")
    try:
        yield {*locked, checkout.root} if lock is not None else locked
    finally:
        if lock is not None:
            lock.release()


def _cache_is_spared(checkout: Checkout, settings: CleanSettings, locked: Collection[Path]) -> str | None:
    """The reason to spare the cache now; None where it may be cleaned."""
    if settings.cache_days == 0:
        return "clean.cache_days is 0"
    if not checkout.dvc.is_dir():
        return "the folder .dvc is missing"
    if is_busy(checkout.root, locked):
        return "a run is under way"
    busy = [clone.name for clone in clones(checkout) if is_busy(clone, locked)]
    if busy:
        return f"the run in clone {busy[0]} is under way"
    if _dvc_works(checkout):
        return "DVC is working on its files"
    return None


def _dvc_works(checkout: Checkout) -> bool:
    """Whether DVC's file of path locks names a live process, such as a bare `dvc repro` that runs a stage."""
    try:
        entries = json.loads((checkout.dvc / "tmp" / "rwlock").read_text(encoding="utf-8"))
        holders = [*entries.get("write", {}).values(), *(one for readers in entries.get("read", {}).values() for one in readers)]
        return any(psutil.pid_exists(int(holder["pid"])) for holder in holders)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True  # damaged or half written: spare the cache


def _needed(checkout: Checkout) -> set[str]:
    checkouts = [checkout.root, *clones(checkout)]
    commits = {value for checkout in checkouts for value in in_commits(checkout)}
    return commits | in_registry(checkout) | in_waiting_records(checkouts)


def _in_use(checkout: Checkout) -> set[str]:
    return {value for checkout in (checkout.root, *clones(checkout)) for value in in_worktree(checkout)}


def _inspect_cache(repository: Any, checkout: Checkout, needed: set[str], settings: CleanSettings, now: float) -> Findings:
    folder = cache_folder(repository, checkout)
    if folder is None:
        raise StageFault(f"it lies in {repository.cache.local.path}, where other checkouts may use it")
    return inspect_cache(folder, checkout, needed, _in_use(checkout), settings.cache_days, now)


def _note_use(repository: Any, checkout: Checkout, now: float) -> None:
    folder = cache_folder(repository, checkout)
    assert folder is not None, "the inspection checks this"
    note_use(checkout, _in_use(checkout), objects(folder), now)


def _without_tracked(checkout: Checkout, findings: Findings) -> Findings:
    """Spare the files that git tracks, and folders with such files."""
    files = tracked(checkout)
    folders = {folder for path in files for folder in path.parents}
    for item in findings.removable:
        if item.path in files or item.path in folders:
            findings.spared.append(f"{item.path.relative_to(checkout.root)} is spared: git tracks it")
    findings.removable = [item for item in findings.removable if item.path not in files and item.path not in folders]
    return findings


def _remove(findings: Findings) -> Findings:
    """Remove the files in their order. Returns the removed ones."""
    removed: list[Removable] = []
    for item in findings.removable:
        try:
            remove_folder(item.path)
        except OSError as error:
            findings.spared.append(f"{item.path} can't be removed: {error.strerror or error}")
        else:
            removed.append(item)
    return Findings(removed, findings.spared)


def _join(findings: Findings, more: Findings) -> None:
    findings.removable += more.removable
    findings.spared += more.spared
