"""Verifies objects of DVC's cache before they are restored. DVC trusts an object that is write-protected, whatever has become of its bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.storage.bundled import md5
from components.storage.repository import open_repository


def remove_damaged(checkout: Checkout, values: Iterable[str]) -> list[str]:
    """As `remove_damaged_from`, in the repository of a checkout."""
    with open_repository(checkout) as repository:
        return remove_damaged_from(repository, values)


def remove_damaged_from(repository: Any, values: Iterable[str]) -> list[str]:
    """Remove the cached objects behind these hashes whose bytes have another hash; returns their paths, relative to the repository.

    A hash names a file, or a folder with its files where it ends in `.dir`. What is removed is then missing, so that DVC fetches it from a
    remote, or the stage makes it anew.
    """
    removed = []
    database = repository.cache.local
    pending = list(dict.fromkeys(values))
    while pending:
        value = pending.pop()
        path = Path(database.oid_to_path(value))
        if not path.is_file():
            continue
        if md5(path) != value.removesuffix(".dir"):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
            path.unlink()
            removed.append(os.path.relpath(path, repository.root_dir))
        elif value.endswith(".dir"):
            pending += _members(database, value)
    return sorted(removed)


def _members(database: Any, value: str) -> list[str]:
    """The hashes of the files of a folder whose list is sound."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree: Any = Tree.load(database, HashInfo("md5", value))
    return [str(hashed.value) for _, hashed in tree.as_dict().values()]
