"""Workspaces of runs: the checkout, clones of source `git`, and refused combinations."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.storage.clones import clones_folder, deployed_checkout
from flows.parameters import RunParameters
from flows.workspace import checked_out, fetched_file, open_workspace
from tests.checkout import git

GIT = RunParameters(source="git")


def test_run_on_checkout_works_in_checkout(checkout: Path) -> None:
    assert open_workspace(Checkout(checkout), RunParameters(), "one").checkout.root == checkout


@pytest.mark.parametrize(("named", "parameters"), [("ref", {"ref": "main"}), ("repository", {"repository": "elsewhere"})])
def test_ref_and_repository_are_refused_for_checkout(checkout: Path, named: str, parameters: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{named} belongs to source 'git'"):
        open_workspace(Checkout(checkout), RunParameters.model_validate(parameters), "one")


def test_clone_has_commit_without_edits_and_shared_cache(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("an edit")
    workspace = open_workspace(Checkout(checkout), GIT, "one")
    assert workspace.checkout.root == clones_folder(Checkout(checkout)) / "one"
    assert workspace.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert (workspace.checkout.root / "params.yaml").read_text() != "an edit"
    config = configparser.ConfigParser()
    config.read(workspace.checkout.root / ".dvc/config.local")
    assert config["cache"]["dir"] == str(checkout / ".dvc/cache")


def test_clone_knows_checkout_that_deployed_it(checkout: Path) -> None:
    workspace = open_workspace(Checkout(checkout), GIT, "one")
    assert deployed_checkout(workspace.checkout).root == checkout
    assert deployed_checkout(Checkout(checkout)).root == checkout


def test_clone_gets_keys_of_remotes_unreadable_for_others(checkout: Path) -> None:
    (checkout / ".dvc/config.local").write_text("['remote \"s3\"']\n    access_key_id = AK%1\n")
    workspace = open_workspace(Checkout(checkout), GIT, "one")
    path = workspace.checkout.root / ".dvc/config.local"
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    assert config["'remote \"s3\"'"]["access_key_id"] == "AK%1"
    assert path.stat().st_mode & 0o077 == 0


def test_resumed_run_gets_its_clone(checkout: Path) -> None:
    first = open_workspace(Checkout(checkout), GIT, "one")
    (first.checkout.root / "dvc.lock").write_text("its results")
    (checkout / "new.txt").write_text("a later commit")
    git(checkout, "add", "new.txt")
    git(checkout, "commit", "-qm", "later")
    resumed = open_workspace(Checkout(checkout), GIT, "one")
    assert resumed == first
    assert (resumed.checkout.root / "dvc.lock").read_text() == "its results"
    assert open_workspace(Checkout(checkout), GIT, "two").commit != first.commit


def test_clone_cut_short_by_kill_is_completed(checkout: Path) -> None:
    first = open_workspace(Checkout(checkout), GIT, "one")
    (first.checkout.root / ".git/clone.json").unlink()
    (first.checkout.root / "params.yaml").unlink()
    assert open_workspace(Checkout(checkout), GIT, "one") == first
    assert (first.checkout.root / "params.yaml").is_file()


def test_clone_of_tag_and_detached_checkout(checkout: Path) -> None:
    git(checkout, "checkout", "-q", "-b", "trial")
    (checkout / "trial.txt").write_text("x")
    git(checkout, "add", "trial.txt")
    git(checkout, "commit", "-qm", "trial")
    git(checkout, "tag", "v1")
    git(checkout, "checkout", "-q", "main")
    assert checked_out(Checkout(checkout)) == "main"
    assert (open_workspace(Checkout(checkout), RunParameters(source="git", ref="v1"), "one").checkout.root / "trial.txt").is_file()
    git(checkout, "checkout", "-q", "--detach", "v1")
    assert checked_out(Checkout(checkout)) == git(checkout, "rev-parse", "v1").strip()


def test_unknown_ref_is_named(checkout: Path) -> None:
    with pytest.raises(UserError, match="no-such-branch"):
        open_workspace(Checkout(checkout), RunParameters(source="git", ref="no-such-branch"), "one")


def test_file_is_read_at_ref_without_clone(checkout: Path) -> None:
    committed = git(checkout, "show", "HEAD:data.dvc")
    (checkout / "data.dvc").write_text("an edit")
    assert fetched_file(Checkout(checkout), GIT, "data.dvc") == committed.strip()
    assert fetched_file(Checkout(checkout), GIT, "no-such-file") is None
    assert not (clones_folder(Checkout(checkout)) / "one").exists()
