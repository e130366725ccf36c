"""Fetches a checkpoint into the checkout, from the hub or from a folder, whole and verified.

- A fetch writes to `NAME.partial` beside the target and renames it at the end: the target is whole or missing.
- A fetch resumes a stopped one: it reuses files with the right sha256, and a partial download continues where it stopped.
- Configurations come first, so that a fetch refuses an unusable model before it downloads the weights.
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

Log = Callable[[str], None]
MODELS = Path("data/models")  # where fetched models lie in a checkout, a folder a model
HUB_LEFTOVERS = ".cache"  # huggingface_hub's folder for the state of downloads
SPARE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Fetched:
    """A fetched checkpoint: its folder, revision and size in bytes, and the processor files that `complete` added; `already` if it existed."""

    folder: Path
    revision: str | None
    bytes: int
    completed: list[str]
    already: bool


def fetch(source: str, revision: str | None, target: Path, where: str, log: Log) -> Fetched:
    """Fetch `source`, a local folder or a hub id, into `target`. Raises UserError with one sentence if that fails."""
    folder = Path(source).expanduser()
    local = folder.is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise UserError(f"{source} is neither a folder nor the id of a model on the hub (owner/name)")
    if local and revision is not None:
        raise UserError("--revision applies to models on the hub, not to a local folder: leave it out")
    if target.exists():
        return _present(source if not local else folder.name, revision, target, where)
    staging = target.with_name(f"{target.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    if local:
        digests, origin, commit = _copy(folder, staging, log), folder.name, None
    else:
        from components.families.hub.download import download

        digests, commit = download(source, revision, staging, log)
        origin = source
    files.check_folder(staging, source)
    completed = files.complete(staging)
    digests |= {name: digest_file(staging / name) for name in completed}
    for name in sorted(path.name for path in staging.iterdir()):
        if name not in digests and (staging / name).is_file():
            (staging / name).unlink()  # of an earlier, stopped fetch of another revision
    shutil.rmtree(staging / HUB_LEFTOVERS, ignore_errors=True)
    write_manifest(staging, digests, source=origin, revision=commit, license_name=files.license_of(staging))
    staging.rename(target)
    return Fetched(target, commit, sum((target / name).stat().st_size for name in digests), completed, already=False)


def _present(source: str, revision: str | None, target: Path, where: str) -> Fetched:
    """The existing target, verified. Raises UserError if it is another model or damaged."""
    manifest = read_manifest(target) if target.is_dir() else None
    if manifest is None:
        raise UserError(f"{where} exists and no fetch made it (it holds no {MANIFEST}): name another folder with --to")
    if manifest["source"] != source or (revision is not None and not str(manifest["revision"]).startswith(revision)):
        present = manifest["source"] + (f" at {manifest['revision']}" if manifest["revision"] else "")
        raise UserError(f"{where} holds {present}: name another folder with --to, or remove it")
    verify(target, where)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    return Fetched(target, manifest["revision"], total, [], already=True)


def _copy(folder: Path, staging: Path, log: Log) -> dict[str, str]:
    """Copy a local checkpoint's files that `staging` lacks; return sha256 by name."""
    files.check_folder(folder, str(folder))
    manifest = read_manifest(folder)
    if manifest is not None:
        verify(folder, str(folder))
    names = files.chosen(path.name for path in folder.iterdir() if path.is_file())
    needed = sum((folder / name).stat().st_size for name in names if not (staging / name).is_file())
    check_space(staging, needed)
    digests = {}
    for name in names:
        expected = digest_file(folder / name)
        if not (staging / name).is_file() or digest_file(staging / name) != expected:
            log(f"copying {name}")
            shutil.copyfile(folder / name, staging / name)
            if digest_file(staging / name) != expected:
                raise UserError(f"{folder / name} changed during the copy, or the disk is faulty: fetch the model again")
        digests[name] = expected
    return digests


def check_space(folder: Path, needed: int) -> None:
    """Raises UserError if the disk of `folder` has less than `needed` bytes and a reserve free."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise UserError(
            f"the model needs {needed / 1e9:.1f} GB more, and the disk has {free / 1e9:.1f} GB free: free disk, or name another disk with --to"
        )
