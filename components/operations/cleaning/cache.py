"""Finds the objects of DVC's cache that nothing needs and that nothing used for some time.

`dvc gc` can't do this. It keeps the objects of commits or of the workspace, but knows neither ages nor the registry: it would remove a
champion that was trained without a commit. This module uses DVC's layout: `files/md5/ab/cdef...`, with `.dir` for a folder's list.

- An object's last use is its creation, or the last cleaning at which the checkout or a clone named it. Cleanings write down these uses.
  Access times are useless: every push and every backup reads old objects too.
- A retained folder retains its files. A young entry of the run-cache retains its outputs; an entry is removed with any of its outputs.
- Entries of the run-cache are removed first, then lists of folders, then files. A kill in between leaves files without a name, but never a
  folder without its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault
from components.files import read_json, write_json
from components.operations.cleaning.findings import DAY, Findings, Removable, extent
from components.operations.cleaning.folders import REMOVING
from components.operations.cleaning.needed import named_in

NAME = re.compile(r"[0-9a-f]{30}(?:\.dir)?")
PREFIX = re.compile(r"[0-9a-f]{2}")
FRESH_SECONDS = 3600.0  # DVC writes an object before the file that names it, so clean.cache_days can't go below this


@dataclass(frozen=True)
class Object:
    """A file of the cache. `size` is in bytes, `made` in seconds since the epoch."""

    path: Path
    size: int
    made: float


def cache_folder(repository: Any, checkout: Checkout) -> Path | None:
    """The cache folder in the checkout; None where the cache lies elsewhere and may serve other checkouts."""
    folder = Path(repository.cache.local.path)
    return folder if folder.resolve().is_relative_to((checkout.dvc / "cache").resolve()) else None


def objects(folder: Path) -> dict[str, Object]:
    """All objects by their hash."""
    entries = {}
    for prefix in folder.iterdir() if folder.is_dir() else ():
        for path in prefix.iterdir() if PREFIX.fullmatch(prefix.name) else ():
            if NAME.fullmatch(path.name):
                status = path.lstat()
                # The inode's time counts too: a file that was moved into the cache keeps its old modification time.
                entries[prefix.name + path.name] = Object(path, status.st_size, max(status.st_mtime, status.st_ctime))
    return entries


def inspect_cache(folder: Path, checkout: Checkout, needed: set[str], in_use: set[str], days: float, now: float) -> Findings:
    """The removable objects of the cache in `folder` (files/md5). A checkout names `in_use` now; `needed` is retained at any age.

    Raises StageFault where the list of a retained folder can't be read.
    """
    cached = objects(folder)
    used = _used(checkout)
    seconds = max(days * DAY, FRESH_SECONDS)
    young = {value for value, entry in cached.items() if now - max(entry.made, used.get(value, 0.0)) <= seconds}
    entries = _entries(folder.parents[1] / "runs")
    retained = needed | in_use | young
    retained |= {out for entry, outs in entries.items() if now - entry.stat().st_mtime <= seconds for out in outs}
    retained |= {inner for value in retained if value.endswith(".dir") and value in cached for inner in _listed(cached[value].path)}
    findings = Findings(_run_cache(folder.parents[1] / "runs", entries, retained, now - seconds))
    removed = sorted((value for value in cached if value not in retained), key=lambda value: (not value.endswith(".dir"), value))
    for value in removed:
        last = max(cached[value].made, used.get(value, 0.0))
        why = f"nothing names it, and nothing used it for {(now - last) / DAY:.1f} days"
        findings.removable.append(Removable("cache", cached[value].path, cached[value].size, why))
    return findings


def _run_cache(runs: Path, entries: Mapping[Path, set[str]], retained: set[str], before: float) -> list[Removable]:
    """Entries older than `before` that lose an output. A key without any other entry is removed whole, since DVC fails on an empty one."""
    lost = {entry for entry, outs in entries.items() if entry.stat().st_mtime < before and not outs <= retained}
    removable = []
    for key in sorted(runs.glob("??/*")):
        if key.name.startswith(REMOVING):
            removable.append(Removable("run-cache", key, extent(key).size, "a killed cleaning left it"))
            continue
        inside = set(key.iterdir())
        why = "its outputs are removed or missing" if inside else "it is empty, and DVC fails on it"
        if inside <= lost and (inside or key.stat().st_mtime < before):
            removable.append(Removable("run-cache", key, extent(key).size, why))
        else:
            removable += [Removable("run-cache", entry, entry.stat().st_size, why) for entry in sorted(inside & lost)]
    return removable


def note_use(checkout: Checkout, in_use: Iterable[str], cached: Mapping[str, Object], now: float) -> None:
    """Write down that the objects `in_use` are used now."""
    used = {value: moment for value, moment in _used(checkout).items() if value in cached}
    write_json(checkout.uses, used | {value: now for value in in_use if value in cached})


def _used(checkout: Checkout) -> dict[str, float]:
    path = checkout.uses
    moments: dict[str, float] = read_json(path) if path.is_file() else {}
    return moments


def _listed(path: Path) -> set[str]:
    try:
        return {str(entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageFault(f"{path}, the list of a needed folder, can't be read, so its files are unknown: run `dvc fetch`") from error


def _entries(runs: Path) -> dict[Path, set[str]]:
    """The entries of the run-cache, with the hashes of their outputs."""
    import yaml

    outputs = {}
    for path in sorted(runs.glob("??/*/*")):
        try:
            outs = yaml.safe_load(path.read_text(encoding="utf-8"))["outs"]
            outputs[path] = {value for out in outs for value in named_in(str(out.get("md5", "")))}
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            continue  # half written, or not DVC's
    return outputs
