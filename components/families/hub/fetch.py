"""Bringing a checkpoint into the checkout, from the hub or from a folder, whole and verified.

- Everything goes to a folder beside the target, `NAME.partial`, and is renamed at the end: the target is whole or not there.
- A fetch that was stopped goes on: files that are there and have the right sha256 are kept, a torn one continues where it stopped.
- Configurations come first, so that a model that can't be used is refused before its weights are loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError
from components.families.hub import files
from components.families.hub.manifest import MANIFEST, read_manifest, verify, write_manifest
from components.files import digest_file

Say = Callable[[str], None]
HUB_LEFTOVERS = ".cache"  # where huggingface_hub keeps the state of downloads into a folder
SPARE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Fetched:
    """What a fetch left: the folder, the revision, the sum of sizes, and processor files that were written in older ones' place."""

    folder: Path
    revision: str | None
    bytes: int
    completed: list[str]
    already: bool


def fetch(source: str, revision: str | None, target: Path, where: str, say: Say) -> Fetched:
    """Bring `source`, a local folder or a hub id, to `target`. Raises UserError with one sentence when that can't be done."""
    folder = Path(source).expanduser()
    local = folder.is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise UserError(f"{source} is neither a folder nor the id of a model on the hub (owner/name)")
    if local and revision is not None:
        raise UserError("--revision goes with a model on the hub, not with a local folder: leave it out")
    if target.exists():
        return _present(source if not local else folder.name, revision, target, where)
    staging = target.with_name(f"{target.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    if local:
        digests, origin, found = _copy(folder, staging, say), folder.name, None
    else:
        from components.families.hub.download import download

        digests, found = download(source, revision, staging, say)
        origin = source
    files.check_folder(staging, source)
    completed = files.complete(staging)
    digests |= {name: digest_file(staging / name) for name in completed}
    for name in sorted(path.name for path in staging.iterdir()):
        if name not in digests and (staging / name).is_file():
            (staging / name).unlink()  # of an earlier, stopped fetch of another revision
    shutil.rmtree(staging / HUB_LEFTOVERS, ignore_errors=True)
    write_manifest(staging, digests, source=origin, revision=found, licence=files.licence(staging))
    staging.rename(target)
    return Fetched(target, found, sum((target / name).stat().st_size for name in digests), completed, already=False)


def _present(source: str, revision: str | None, target: Path, where: str) -> Fetched:
    """What is there already, when it is what was asked for and whole."""
    manifest = read_manifest(target) if target.is_dir() else None
    if manifest is None:
        raise UserError(f"{where} is there already and was not fetched (it holds no {MANIFEST}): name another place with --to")
    if manifest["source"] != source or (revision is not None and not str(manifest["revision"]).startswith(revision)):
        held = manifest["source"] + (f" at {manifest['revision']}" if manifest["revision"] else "")
        raise UserError(f"{where} holds {held}: name another place with --to, or remove it")
    verify(target, where)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    return Fetched(target, manifest["revision"], total, [], already=True)


def _copy(folder: Path, staging: Path, say: Say) -> dict[str, str]:
    """Copy a local checkpoint's files, those that are there already left out. sha256 by name."""
    files.check_folder(folder, str(folder))
    told = read_manifest(folder)
    if told is not None:
        verify(folder, str(folder))
    names = files.chosen(path.name for path in folder.iterdir() if path.is_file())
    needed = sum((folder / name).stat().st_size for name in names if not (staging / name).is_file())
    check_space(staging, needed)
    digests = {}
    for name in names:
        expected = digest_file(folder / name)
        if not (staging / name).is_file() or digest_file(staging / name) != expected:
            say(f"copying {name}")
            shutil.copyfile(folder / name, staging / name)
            if digest_file(staging / name) != expected:
                raise UserError(f"{folder / name} changed while it was copied, or the disk is faulty: fetch it again")
        digests[name] = expected
    return digests


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk can't hold. Raises UserError."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise UserError(
            f"the model needs {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free: make room, or name another disk with --to"
        )
