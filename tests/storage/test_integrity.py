"""Objects of DVC's cache whose bytes went bad, as after a fault of the disk: write-protected, and of the length that they should have."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checkout import Checkout
from components.storage.integrity import remove_damaged
from components.storage.objects import cached_files
from tests.storage.test_objects import root, value  # noqa: F401 -- a fixture


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def test_sound_objects_stay(root: Path) -> None:  # noqa: F811
    values = [value(root, "data"), value(root, "one.txt")]
    assert remove_damaged(Checkout(root), values) == []
    assert all(cached_files(Checkout(root), one) is not None for one in values)


@pytest.mark.parametrize("content", [b"\0\0", b"b", b"", b"longer than before\n"])
def test_damaged_file_of_a_folder_is_removed(root: Path, content: bytes) -> None:  # noqa: F811
    folder = cached_files(Checkout(root), value(root, "data"))
    assert folder is not None
    damage(folder["inner/b.txt"], content)
    (removed,) = remove_damaged(Checkout(root), [value(root, "data"), value(root, "one.txt")])
    assert root / removed == folder["inner/b.txt"]
    assert not folder["inner/b.txt"].exists()
    assert folder["a.txt"].exists()


def test_damaged_list_of_a_folder_is_removed(root: Path) -> None:  # noqa: F811
    listed = value(root, "data")
    path = next((root / ".dvc/cache").rglob(listed[2:]))
    damage(path, path.read_bytes().replace(b"a.txt", b"c.txt"))
    (removed,) = remove_damaged(Checkout(root), [listed])
    assert root / removed == path


def test_object_that_is_missing_is_passed_over(root: Path) -> None:  # noqa: F811
    assert remove_damaged(Checkout(root), ["0" * 32]) == []
