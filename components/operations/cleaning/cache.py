"""What may go of DVC's cache: objects that nothing needs and that were not used for a time.

`dvc gc` can't say this: it keeps what commits or the workspace name, and knows neither ages nor the registry, so it would take a champion
that was trained without a commit. Objects are found and removed here by DVC's own layout: `files/md5/ab/cdef...`, `.dir` for a folder's list.

- An object's last use is the latest of its making and of the cleanings that found it named by the checkout or a clone; these are written
  down. Times of access won't do: every push and every backup reads old objects too.
- What a kept folder lists is kept. Entries of the run-cache keep their outputs while they are young, and go when an output goes.
- Entries of the run-cache go first, then lists of folders, then files: a kill in between leaves files that nobody names, and never a folder
  that lacks some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import StageFault
from components.files import read_json, write_json
from components.operations.cleaning.findings import DAY, Findings, Removable, extent
from components.operations.cleaning.folders import REMOVING
from components.operations.cleaning.needed import named_in

USED = Path(".mmalign") / "clean" / "used.json"  # hash to the time of its last use, in seconds since the epoch
NAME = re.compile(r"[0-9a-f]{30}(?:\.dir)?")
PREFIX = re.compile(r"[0-9a-f]{2}")
FRESH_SECONDS = 3600.0  # an object may be there before the file that names it, whatever clean.cache_days says


@dataclass(frozen=True)
class Object:
    """A file of the cache. `made` is in seconds since the epoch."""

    path: Path
    size: int
    made: float


def cache_folder(repository: Any, root: Path) -> Path | None:
    """The folder of the checkout's own cache; None where it lies elsewhere, and may serve checkouts that nobody here knows of."""
    folder = Path(repository.cache.local.path)
    return folder if folder.resolve().is_relative_to((root / ".dvc" / "cache").resolve()) else None


def objects(folder: Path) -> dict[str, Object]:
    """All objects by their hash."""
    found = {}
    for prefix in folder.iterdir() if folder.is_dir() else ():
        for path in prefix.iterdir() if PREFIX.fullmatch(prefix.name) else ():
            if NAME.fullmatch(path.name):
                told = path.lstat()
                # The time of the inode too: a file that was moved into the cache brings its own time along.
                found[prefix.name + path.name] = Object(path, told.st_size, max(told.st_mtime, told.st_ctime))
    return found


def inspect_cache(folder: Path, root: Path, needed: set[str], in_use: set[str], days: float, now: float) -> Findings:
    """What may go of the cache in `folder` (files/md5). `in_use` is named by a checkout now, and `needed` is to be kept at any age.

    Raises StageFault where the list of a kept folder can't be read.
    """
    there = objects(folder)
    used = _used(root)
    seconds = max(days * DAY, FRESH_SECONDS)
    young = {value for value, entry in there.items() if now - max(entry.made, used.get(value, 0.0)) <= seconds}
    entries = _entries(folder.parents[1] / "runs")
    kept = needed | in_use | young
    kept |= {out for entry, outs in entries.items() if now - entry.stat().st_mtime <= seconds for out in outs}
    kept |= {inner for value in kept if value.endswith(".dir") and value in there for inner in _listed(there[value].path)}
    found = Findings(_run_cache(folder.parents[1] / "runs", entries, kept, now - seconds))
    removed = sorted((value for value in there if value not in kept), key=lambda value: (not value.endswith(".dir"), value))
    for value in removed:
        last = max(there[value].made, used.get(value, 0.0))
        why = f"nothing names it, and it was not used for {(now - last) / DAY:.1f} days"
        found.removable.append(Removable("cache", there[value].path, there[value].size, why))
    return found


def _run_cache(runs: Path, entries: Mapping[Path, set[str]], kept: set[str], before: float) -> list[Removable]:
    """Entries written before `before` that have lost an output: whole folders of a key where nothing of it stays, since DVC fails over an
    empty one."""
    lost = {entry for entry, outs in entries.items() if entry.stat().st_mtime < before and not outs <= kept}
    found = []
    for key in sorted(runs.glob("??/*")):
        if key.name.startswith(REMOVING):
            found.append(Removable("run-cache", key, extent(key).size, "a cleaning that was cut short left it"))
            continue
        inside = set(key.iterdir())
        why = "its outputs are removed, or are gone" if inside else "it is empty, which DVC fails over"
        if inside <= lost and (inside or key.stat().st_mtime < before):
            found.append(Removable("run-cache", key, extent(key).size, why))
        else:
            found += [Removable("run-cache", entry, entry.stat().st_size, why) for entry in sorted(inside & lost)]
    return found


def note_use(root: Path, in_use: Iterable[str], there: Mapping[str, Object], now: float) -> None:
    """Write down that these objects are used now."""
    used = {value: moment for value, moment in _used(root).items() if value in there}
    write_json(root / USED, used | {value: now for value in in_use if value in there})


def _used(root: Path) -> dict[str, float]:
    path = root / USED
    known: dict[str, float] = read_json(path) if path.is_file() else {}
    return known


def _listed(path: Path) -> set[str]:
    try:
        return {str(entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageFault(f"{path}, a folder's list that is needed, can't be read: nothing says which files belong to it") from error


def _entries(runs: Path) -> dict[Path, set[str]]:
    """Entries of the run-cache, with the hashes of their outputs."""
    import yaml

    found = {}
    for path in sorted(runs.glob("??/*/*")):
        try:
            outs = yaml.safe_load(path.read_text(encoding="utf-8"))["outs"]
            found[path] = {value for out in outs for value in named_in(str(out.get("md5", "")))}
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            continue  # being written, or not DVC's
    return found
