"""The hashes that commits name, where the checkout is a folder of a larger repository, and where it was moved in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import StageFault
from components.operations.cleaning.needed import in_commits, in_worktree, tracked
from tests.checkout import git


def hashed(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout in a folder of a repository, with two committed data versions of which data.dvc now names the second."""
    made = tmp_path / "team/projects/mmalign"
    made.mkdir(parents=True)
    git(tmp_path / "team", "init", "-q", "-b", "main")
    for number in (1, 2):
        (made / "data.dvc").write_text(f"outs:\n- md5: {hashed(number)}.dir\n")
        (made / "dvc.lock").write_text(f"md5: {hashed(10 + number)}\n")
        git(made, "add", "-A")
        git(made, "commit", "-q", "-m", f"version {number}")
    return made


def test_commits_of_a_larger_repository_count(folder: Path) -> None:
    assert in_commits(folder) == {f"{hashed(1)}.dir", f"{hashed(2)}.dir", hashed(11), hashed(12)}
    assert in_worktree(folder) == {f"{hashed(2)}.dir", hashed(12)}
    assert tracked(Checkout(folder)) == {folder / "data.dvc", folder / "dvc.lock"}


def test_commits_from_before_the_folder_was_moved_count(folder: Path) -> None:
    moved = folder.parents[1] / "elsewhere"
    git(folder.parents[1], "mv", "projects/mmalign", "elsewhere")
    git(moved, "commit", "-q", "-m", "moved")
    assert {f"{hashed(1)}.dir", hashed(11)} <= in_commits(moved)


def test_folder_outside_git_has_no_commits(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(f"md5: {hashed(3)}\n")
    assert in_commits(tmp_path) == set()
    assert in_worktree(tmp_path) == {hashed(3)}


def test_repository_that_git_cannot_read_is_a_fault(folder: Path) -> None:
    (folder.parents[1] / ".git/HEAD").write_text("nonsense\n")
    with pytest.raises(StageFault, match="so the files of its commits are unknown"):
        in_commits(folder)
