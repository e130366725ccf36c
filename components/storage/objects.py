"""Finds DVC's objects by their hash in the cache and in remotes, and fetches them into the cache.

A hash names a file, or a folder where it ends in `.dir`. A folder counts as available only with all its files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.storage.data_version import UNSET_BUCKET
from components.storage.repository import open_repository
from components.storage.space import LINKED_ABOVE_BYTES


@dataclass(frozen=True)
class Whereabouts:
    """The cache and the remotes that hold an object, and the unreachable remotes with the reason."""

    cached: bool
    remotes: tuple[str, ...]
    unreachable: Mapping[str, str]

    @property
    def is_available(self) -> bool:
        """Whether the cache or any remote holds the object."""
        return self.cached or bool(self.remotes)

    def __str__(self) -> str:
        sources = (["DVC's cache"] if self.cached else []) + [f"remote '{name}'" for name in self.remotes]
        unsure = "; ".join(f"remote '{name}' can't be reached: {reason}" for name, reason in self.unreachable.items())
        return (" and ".join(sources) or "nowhere") + (f" ({unsure})" if unsure else "")


def locate(checkout: Checkout, value: str) -> Whereabouts:
    """Find the object with this hash in the checkout's cache and in all configured remotes."""
    with open_repository(checkout) as repository:
        cached = _cached_files(repository, value) is not None
        remotes: list[str] = []
        unreachable: dict[str, str] = {}
        for name in _remotes(repository):
            try:
                remote = repository.cloud.get_remote_odb(name)
                if _files(remote, value) is not None:
                    remotes.append(name)
            except Exception as error:  # noqa: BLE001 -- every kind of storage has its own errors
                unreachable[name] = " ".join(str(error).split())[:200]
    return Whereabouts(cached, tuple(remotes), unreachable)


def cached_files(checkout: Checkout, value: str) -> dict[str, Path] | None:
    """Relative name to path in the cache for every file of an object (a single file has the name ""); None when any is missing."""
    with open_repository(checkout) as repository:
        return _cached_files(repository, value)


def bring_into_cache(checkout: Checkout, value: str) -> dict[str, Path] | None:
    """Fetch missing files from the first remote that holds the object; then as `cached_files`."""
    from dvc_data.hashfile.hash_info import HashInfo

    with open_repository(checkout) as repository:
        files = _cached_files(repository, value)
        for name in _remotes(repository):
            if files is not None:
                break
            with suppress(Exception):  # every kind of storage has its own errors, and the next remote may hold it
                repository.cloud.pull([HashInfo("md5", value)], remote=name)
                # For a folder, that fetched only its list of files.
                hashes = _hashes(repository.cache.local, value)
                repository.cloud.pull([HashInfo("md5", hashed) for hashed in hashes.values()], remote=name)
            files = _cached_files(repository, value)
        return files


def put_file(source: Path, target: Path, *, link: bool = True) -> None:
    """Put a file at `target`: a large one by reflink or hard link where `link` is set and the file system can, else by a copy.

    Set `link` only for files that nobody edits, such as those in DVC's cache. Symbolic links would not survive `dvc gc`.
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
    """Relative name to path in an object database; None when the database lacks any file."""
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
    """Relative name to hash for a folder's files; a single file has the name ""."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if not value.endswith(".dir"):
        return {"": value}
    tree: Any = Tree.load(database, HashInfo("md5", value))
    return {"/".join(key): str(hashed.value) for key, (_, hashed) in tree.as_dict().items()}
