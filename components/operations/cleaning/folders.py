"""Finds removable scratch, logs and clones by their last write and by the runs under way.

A cleaning renames a folder before it removes it, so that a kill never leaves half a checkpoint or half a clone under the real name. The next
cleaning removes the renamed rest.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from components.checkout import Checkout
from components.config.ops import CleanSettings
from components.operations.cleaning.findings import DAY, Extent, Findings, Kind, Removable, extent
from components.operations.doctor.activity import activity
from components.operations.notices.send import JOURNAL
from components.storage.clones import clones_folder
from components.tracking.recorder import PENDING
from components.tracking.store import state_folder as tracking_folder

REMOVING = ".removing-"


def clones(checkout: Checkout) -> list[Path]:
    """The clones, without the mirror beside them in which deployments look for new data."""
    return sorted(path for path in clones_folder(checkout).glob("*") if (path / ".git").is_dir() and not path.name.startswith(REMOVING))


def inspect_folders(checkout: Checkout, settings: CleanSettings, now: float, locked: Collection[Path]) -> Findings:
    """The removable folders. `now` is in seconds since the epoch; the caller holds the run locks of the folders in `locked`."""
    findings = Findings()
    running = activity(checkout)
    if is_busy(checkout.root, locked):
        findings.spared.append("scratch is spared: a run is under way and may resume from it")
    else:
        findings.removable += _old("scratch", _scratch(checkout), settings.scratch_days, now, "no run resumed its stage")
    findings.removable += _old("scratch", checkout.imports.glob("*"), settings.scratch_days, now, "no import went on with it")
    begun = running.run.started.timestamp() if running.run is not None and checkout.root not in locked else None
    logs = [path for path in checkout.logs.glob("*") if path.name != JOURNAL.name]
    findings.removable += [
        item
        for item in _old("logs", logs, settings.logs_days, now, "nothing was written to it")
        if begun is None or now - begun > settings.logs_days * DAY or extent(item.path).written < begun
    ]
    _inspect_clones(checkout, settings, now, locked, findings)
    for parent, kind in _parents(checkout):
        findings.removable += [
            Removable(kind, path, extent(path).size, "a killed cleaning left it") for path in parent.glob(f"{REMOVING}*")
        ]
    return findings


def _inspect_clones(checkout: Checkout, settings: CleanSettings, now: float, locked: Collection[Path], findings: Findings) -> None:
    for clone in clones(checkout):
        size = extent(clone)
        if now - size.written <= settings.clones_days * DAY:
            continue
        if clone in locked or is_busy(clone, locked):
            findings.spared.append(f"clone {clone.name} is spared: its run is under way")
        elif any(tracking_folder(Checkout(clone)).glob(f"{PENDING}*.jsonl")):
            findings.spared.append(f"clone {clone.name} is spared: records of its run still wait for MLflow")
        else:
            findings.removable.append(_item("clones", clone, size, now, "its run has ended"))


def is_busy(folder: Path, locked: Collection[Path]) -> bool:
    """Whether a run, a stage or a leftover process works in the checkout `folder`. The caller's own run locks (`locked`) don't count."""
    now = activity(Checkout(folder))
    return bool(now.stages or now.leftovers) or (now.run is not None and folder not in locked)


def remove_folder(path: Path) -> None:
    """Remove a file, a link (never its target) or a folder. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    away = path if path.name.startswith(REMOVING) else path.with_name(f"{REMOVING}{uuid.uuid4().hex}")
    if away != path:
        path.rename(away)
    shutil.rmtree(away)


def _scratch(checkout: Checkout) -> Iterator[Path]:
    """Scratch folders of stages, and the folders of killed registrations."""
    yield from checkout.scratch().glob("*/*")
    yield from (checkout.state / "registry").glob("tmp*")


def _parents(checkout: Checkout) -> list[tuple[Path, Kind]]:
    stages: list[tuple[Path, Kind]] = [(path, "scratch") for path in checkout.scratch().glob("*")]
    scratch: list[tuple[Path, Kind]] = [*stages, (checkout.state / "registry", "scratch"), (checkout.imports, "scratch")]
    return [*scratch, (checkout.logs, "logs"), (clones_folder(checkout), "clones")]


def _old(kind: Kind, paths: Iterator[Path] | list[Path], days: float, now: float, why: str) -> list[Removable]:
    items = []
    for path in sorted(paths):
        size = extent(path)
        if not path.name.startswith(REMOVING) and now - size.written > days * DAY:
            items.append(_item(kind, path, size, now, why))
    return items


def _item(kind: Kind, path: Path, size: Extent, now: float, why: str) -> Removable:
    return Removable(kind, path, size.size, f"{why} for {(now - size.written) / DAY:.1f} days")
