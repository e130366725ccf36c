"""Clones for runs of source `git`: what is cloned, when it is made again, and what is refused."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from components.errors import UserError
from flows.parameters import NightParameters
from flows.workplace import checked_out, clones_folder, fetched_file, open_workplace
from tests.checkout import git

GIT = NightParameters(source="git")


def test_a_run_on_the_checkout_works_in_it(checkout: Path) -> None:
    assert open_workplace(checkout, NightParameters(), "one").folder == checkout


@pytest.mark.parametrize(("named", "given"), [("ref", {"ref": "main"}), ("repository", {"repository": "elsewhere"})])
def test_what_belongs_to_a_clone_is_refused_for_the_checkout(checkout: Path, named: str, given: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{named} belongs to source 'git'"):
        open_workplace(checkout, NightParameters.model_validate(given), "one")


def test_a_clone_has_the_commit_and_not_the_edits_and_shares_the_cache(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("an edit")
    place = open_workplace(checkout, GIT, "one")
    assert place.folder == clones_folder(checkout) / "one"
    assert place.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert (place.folder / "params.yaml").read_text() != "an edit"
    config = configparser.ConfigParser()
    config.read(place.folder / ".dvc/config.local")
    assert config["cache"]["dir"] == str(checkout / ".dvc/cache")


def test_keys_of_remotes_that_a_person_keeps_go_along_unreadable_for_others(checkout: Path) -> None:
    (checkout / ".dvc/config.local").write_text("['remote \"s3\"']\n    access_key_id = AK%1\n")
    place = open_workplace(checkout, GIT, "one")
    path = place.folder / ".dvc/config.local"
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    assert config["'remote \"s3\"'"]["access_key_id"] == "AK%1"
    assert path.stat().st_mode & 0o077 == 0


def test_a_run_that_goes_on_finds_its_clone_as_it_left_it(checkout: Path) -> None:
    first = open_workplace(checkout, GIT, "one")
    (first.folder / "dvc.lock").write_text("what it had done")
    (checkout / "new.txt").write_text("a later commit")
    git(checkout, "add", "new.txt")
    git(checkout, "commit", "-qm", "later")
    again = open_workplace(checkout, GIT, "one")
    assert again == first
    assert (again.folder / "dvc.lock").read_text() == "what it had done"
    assert open_workplace(checkout, GIT, "two").commit != first.commit


def test_a_clone_that_a_kill_cut_short_is_made_whole(checkout: Path) -> None:
    first = open_workplace(checkout, GIT, "one")
    (first.folder / ".git/clone.json").unlink()
    (first.folder / "params.yaml").unlink()
    assert open_workplace(checkout, GIT, "one") == first
    assert (first.folder / "params.yaml").is_file()


def test_another_branch_a_tag_and_a_detached_checkout(checkout: Path) -> None:
    git(checkout, "checkout", "-q", "-b", "trial")
    (checkout / "trial.txt").write_text("x")
    git(checkout, "add", "trial.txt")
    git(checkout, "commit", "-qm", "trial")
    git(checkout, "tag", "v1")
    git(checkout, "checkout", "-q", "main")
    assert checked_out(checkout) == "main"
    assert (open_workplace(checkout, NightParameters(source="git", ref="v1"), "one").folder / "trial.txt").is_file()
    git(checkout, "checkout", "-q", "--detach", "v1")
    assert checked_out(checkout) == git(checkout, "rev-parse", "v1").strip()


def test_a_ref_that_is_not_there_is_named(checkout: Path) -> None:
    with pytest.raises(UserError, match="no-such-branch"):
        open_workplace(checkout, NightParameters(source="git", ref="no-such-branch"), "one")


def test_a_file_is_read_at_the_ref_without_a_clone(checkout: Path) -> None:
    committed = git(checkout, "show", "HEAD:data.dvc")
    (checkout / "data.dvc").write_text("an edit")
    assert fetched_file(checkout, GIT, "data.dvc") == committed.strip()
    assert fetched_file(checkout, GIT, "no-such-file") is None
    assert not (clones_folder(checkout) / "one").exists()
