"""What may go of scratch, logs and clones: by the last writing to them, and by what runs.

A folder is renamed before it is removed, so that a kill in between never leaves half of a checkpoint or of a clone under its own name; what is
left under the other name goes with the next cleaning.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from components.config.clean import CleanSettings
from components.operations.cleaning.findings import DAY, Extent, Findings, Kind, Removable, extent
from components.operations.doctor.activity import activity
from components.operations.notices.send import JOURNAL
from components.operations.services.state import state_folder
from components.tracking.recorder import PENDING
from components.tracking.store import state_folder as tracking_folder

REMOVING = ".removing-"


def clones_folder(root: Path) -> Path:
    """Where runs with source `git` have their clones, each in a folder of the flow run's id."""
    return state_folder(root) / "clones"


def clones(root: Path) -> list[Path]:
    """The clones that are there. (Beside them lies a mirror, from which new data are looked for.)"""
    return sorted(path for path in clones_folder(root).glob("*") if (path / ".git").is_dir() and not path.name.startswith(REMOVING))


def look_at_folders(root: Path, settings: CleanSettings, now: float, turns: Collection[Path]) -> Findings:
    """What may go. `now` is in seconds since the epoch; whoever asks holds the run locks of the folders in `turns`."""
    found = Findings()
    running = activity(root)
    if is_busy(root, turns):
        found.spared.append("scratch is left alone: a run is under way, and may resume from it")
    else:
        found.removable += _old("scratch", _scratch(root), settings.scratch_days, now, "its stage was not resumed")
    begun = running.run.started.timestamp() if running.run is not None and root not in turns else None
    logs = [path for path in (root / "logs").glob("*") if path.name != JOURNAL.name]
    found.removable += [
        item
        for item in _old("logs", logs, settings.logs_days, now, "nothing was written to it")
        if begun is None or now - begun > settings.logs_days * DAY or extent(item.path).written < begun
    ]
    _look_at_clones(root, settings, now, turns, found)
    for parent, kind in _parents(root):
        found.removable += [
            Removable(kind, path, extent(path).size, "a cleaning that was cut short left it") for path in parent.glob(f"{REMOVING}*")
        ]
    return found


def _look_at_clones(root: Path, settings: CleanSettings, now: float, turns: Collection[Path], found: Findings) -> None:
    for clone in clones(root):
        told = extent(clone)
        if now - told.written <= settings.clones_days * DAY:
            continue
        if clone in turns or is_busy(clone, turns):
            found.spared.append(f"clone {clone.name} is left alone: its run is under way")
        elif any(tracking_folder(clone).glob(f"{PENDING}*.jsonl")):
            found.spared.append(f"clone {clone.name} is left alone: records of its run still wait for MLflow")
        else:
            found.removable.append(_item("clones", clone, told, now, "its run has ended"))


def is_busy(checkout: Path, turns: Collection[Path]) -> bool:
    """Whether anything runs in a checkout, left over or not. A held run lock is no sign of it where the checkout is among `turns`."""
    now = activity(checkout)
    return bool(now.stages or now.leftovers) or (now.run is not None and checkout not in turns)


def remove_folder(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    away = path if path.name.startswith(REMOVING) else path.with_name(f"{REMOVING}{uuid.uuid4().hex}")
    if away != path:
        path.rename(away)
    shutil.rmtree(away)


def _scratch(root: Path) -> Iterator[Path]:
    """Scratch folders of stages, and what registrations that were killed left."""
    yield from (root / ".mmalign" / "scratch").glob("*/*")
    yield from (root / ".mmalign" / "registry").glob("tmp*")


def _parents(root: Path) -> list[tuple[Path, Kind]]:
    stages: list[tuple[Path, Kind]] = [(path, "scratch") for path in (root / ".mmalign" / "scratch").glob("*")]
    return [*stages, (root / ".mmalign" / "registry", "scratch"), (root / "logs", "logs"), (clones_folder(root), "clones")]


def _old(kind: Kind, paths: Iterator[Path] | list[Path], days: float, now: float, why: str) -> list[Removable]:
    found = []
    for path in sorted(paths):
        told = extent(path)
        if not path.name.startswith(REMOVING) and now - told.written > days * DAY:
            found.append(_item(kind, path, told, now, why))
    return found


def _item(kind: Kind, path: Path, told: Extent, now: float, why: str) -> Removable:
    return Removable(kind, path, told.size, f"{why} for {(now - told.written) / DAY:.1f} days")
