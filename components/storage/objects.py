"""DVC's objects by their hash: whether the cache or a remote still holds one, bringing it into the cache, and its files.

A hash names a file, or a folder where it ends in `.dir`. A folder is there only when all of its files are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.storage.data_version import UNSET_BUCKET
from components.storage.repository import open_repository

LINKED_ABOVE_BYTES = 1_000_000_000  # a larger file is linked where the file system can, since a copy would cost its size and minutes


@dataclass(frozen=True)
class Whereabouts:
    """Where an object can be had: in the cache, in which remotes, and which remotes could not be asked and why."""

    cached: bool
    remotes: tuple[str, ...]
    unreachable: Mapping[str, str]

    @property
    def found(self) -> bool:
        """Whether it can be had at all."""
        return self.cached or bool(self.remotes)

    def __str__(self) -> str:
        places = (["DVC's cache"] if self.cached else []) + [f"remote '{name}'" for name in self.remotes]
        unsure = "; ".join(f"remote '{name}' can't be asked: {reason}" for name, reason in self.unreachable.items())
        return (" and ".join(places) or "nowhere") + (f" ({unsure})" if unsure else "")


def locate(root: Path, value: str) -> Whereabouts:
    """Look for the object with this hash in the checkout's cache and in all remotes that are set up."""
    with open_repository(root) as repository:
        cached = _cached_files(repository, value) is not None
        found: list[str] = []
        unreachable: dict[str, str] = {}
        for name in _remotes(repository):
            try:
                remote = repository.cloud.get_remote_odb(name)
                if _files(remote, value) is not None:
                    found.append(name)
            except Exception as error:  # noqa: BLE001 -- every kind of storage raises errors of its own
                unreachable[name] = " ".join(str(error).split())[:200]
    return Whereabouts(cached, tuple(found), unreachable)


def cached_files(root: Path, value: str) -> dict[str, Path] | None:
    """Relative name to path in the cache of every file of a folder (a single file has the name ""); None when any is missing."""
    with open_repository(root) as repository:
        return _cached_files(repository, value)


def bring_into_cache(root: Path, value: str) -> dict[str, Path] | None:
    """As `cached_files`, after fetching what is missing from the first remote that holds the object."""
    from dvc_data.hashfile.hash_info import HashInfo

    with open_repository(root) as repository:
        files = _cached_files(repository, value)
        for name in _remotes(repository):
            if files is not None:
                break
            with suppress(Exception):  # every kind of storage raises errors of its own, and the next remote may have it
                repository.cloud.pull([HashInfo("md5", value)], remote=name)
                # of a folder that was its list of files only
                hashes = _hashes(repository.cache.local, value)
                repository.cloud.pull([HashInfo("md5", hashed) for hashed in hashes.values()], remote=name)
            files = _cached_files(repository, value)
        return files


def put_file(source: Path, target: Path, *, link: bool = True) -> None:
    """Put a file at `target`: by reflink or hard link when it is large, `link` is given and that can be done, else by a copy.

    `link` is for files that nobody edits, such as those of DVC's cache. No symbolic link: what is kept must outlive `dvc gc`.
    """
    from dvc_objects.fs.system import reflink

    target.parent.mkdir(parents=True, exist_ok=True)
    if link and source.stat().st_size > LINKED_ABOVE_BYTES:
        for way in (reflink, os.link):
            try:
                way(str(source), str(target))
            except OSError:  # another file system, or one without such links
                continue
            return
    shutil.copyfile(source, target)


def _remotes(repository: Any) -> list[str]:
    remotes = repository.config["remote"]
    return [name for name, entry in remotes.items() if UNSET_BUCKET not in str(entry.get("url", UNSET_BUCKET))]


def _cached_files(repository: Any, value: str) -> dict[str, Path] | None:
    files = _files(repository.cache.local, value)
    return None if files is None else {name: Path(path) for name, path in files.items()}


def _files(database: Any, value: str) -> dict[str, str] | None:
    """Relative name to path in an object database; None when anything is missing there."""
    from dvc_objects.errors import ObjectFormatError

    if not database.exists(value):
        return None
    try:
        hashes = _hashes(database, value)
    except (FileNotFoundError, ObjectFormatError):
        return None
    if not set(database.list_oids_exists(set(hashes.values()))).issuperset(hashes.values()):
        return None
    return {name: database.oid_to_path(hashed) for name, hashed in hashes.items()}


def _hashes(database: Any, value: str) -> dict[str, str]:
    """Relative name to hash of a folder's files; of a file, its own under the name ""."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if not value.endswith(".dir"):
        return {"": value}
    tree: Any = Tree.load(database, HashInfo("md5", value))
    return {"/".join(key): str(hashed.value) for key, (_, hashed) in tree.as_dict().items()}
