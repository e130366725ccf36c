from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.storage import objects
from components.storage.objects import bring_into_cache, cached_files, locate, put_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A DVC repository with a folder and a file in its cache, and an empty remote."""
    from dvc.repo import Repo

    folder = tmp_path / "checkout"
    (folder / "data/inner").mkdir(parents=True)
    (folder / "data/a.txt").write_text("a\n")
    (folder / "data/inner/b.txt").write_text("b\n")
    (folder / "one.txt").write_text("one\n")
    with Repo.init(str(folder), no_scm=True) as repository:
        repository.add([str(folder / "data"), str(folder / "one.txt")])
    (folder / ".dvc/config").write_text(
        f"[core]\n    no_scm = True\n['remote \"team\"']\n    url = {tmp_path}/remote\n    verify = true\n"
        "['remote \"later\"']\n    url = s3://SET-YOUR-BUCKET/mmalign\n"
    )
    return folder


def value(root: Path, name: str) -> str:
    import yaml

    return str(yaml.safe_load((root / f"{name}.dvc").read_text())["outs"][0]["md5"])


def to_remote(root: Path) -> Path:
    """Move the cache to the remote."""
    remote = root.parent / "remote"
    shutil.move(root / ".dvc/cache", remote)
    return remote


def test_cached_files_of_folder_and_file_are_listed(root: Path) -> None:
    folder, single = cached_files(Checkout(root), value(root, "data")), cached_files(Checkout(root), value(root, "one.txt"))

    assert folder is not None
    assert {name: path.read_text() for name, path in folder.items()} == {"a.txt": "a\n", "inner/b.txt": "b\n"}
    assert single is not None
    assert [path.read_text() for path in single.values()] == ["one\n"]


def test_folder_without_a_file_is_unavailable(root: Path) -> None:
    folder = cached_files(Checkout(root), value(root, "data"))
    assert folder is not None
    folder["a.txt"].unlink()

    assert cached_files(Checkout(root), value(root, "data")) is None
    assert not locate(Checkout(root), value(root, "data")).is_available


def test_hash_is_located_in_cache_and_remotes(root: Path) -> None:
    here = locate(Checkout(root), value(root, "data"))
    shutil.copytree(root / ".dvc/cache", root.parent / "remote")
    both = locate(Checkout(root), value(root, "data"))

    assert (here.cached, here.remotes, str(here)) == (True, (), "DVC's cache")
    assert (both.remotes, str(both)) == (("team",), "DVC's cache and remote 'team'")
    assert str(locate(Checkout(root), "0" * 32)) == "nowhere"


def test_unreachable_remote_is_named(root: Path) -> None:
    (root / ".dvc/config").write_text("[core]\n    no_scm = True\n['remote \"odd\"']\n    url = gs://bucket/x\n")

    whereabouts = locate(Checkout(root), value(root, "data"))

    assert whereabouts.cached
    assert "odd" in whereabouts.unreachable
    assert "remote 'odd' can't be reached" in str(whereabouts)


def test_missing_object_is_fetched_from_remote(root: Path) -> None:
    to_remote(root)

    files = bring_into_cache(Checkout(root), value(root, "data"))

    assert files is not None
    assert sorted(files) == ["a.txt", "inner/b.txt"]
    assert all(path.is_relative_to(root / ".dvc/cache") for path in files.values())
    assert locate(Checkout(root), value(root, "data")).cached


def test_damaged_remote_object_is_not_accepted(root: Path) -> None:
    folder = cached_files(Checkout(root), value(root, "data"))
    assert folder is not None
    inside = folder["a.txt"].relative_to(root / ".dvc/cache")
    damaged = to_remote(root) / inside
    damaged.chmod(0o644)
    damaged.write_text("x\n")

    assert bring_into_cache(Checkout(root), value(root, "data")) is None


def test_large_files_are_linked_and_small_ones_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"12345")
    put_file(source, tmp_path / "small")
    monkeypatch.setattr(objects, "LINKED_ABOVE_BYTES", 4)
    put_file(source, tmp_path / "new" / "large")
    put_file(source, tmp_path / "own", link=False)

    assert {path.read_bytes() for path in (tmp_path / "small", tmp_path / "new/large", tmp_path / "own")} == {b"12345"}
    assert not (tmp_path / "small").samefile(source)
    assert not (tmp_path / "own").samefile(source)
    assert not (tmp_path / "new/large").is_symlink()
    assert source.stat().st_nlink in (1, 2)  # a reflink or a hard link
