"""Workspaces of runs: the checkout, clones of source `git`, and refused combinations."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.checkout import Checkout
from components.errors import UserError
from components.storage.clones import clones_folder, deployed_checkout
from flows.parameters import REF, RunParameters
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


OPTION = "--upload-pack=touch {};git-upload-pack"


@pytest.mark.parametrize(
    "parameters",
    [
        {"ref": OPTION},
        {"ref": "-x"},
        {"ref": "main\n"},
        {"ref": "main:refs/heads/other"},
        {"ref": "a..b"},
        {"ref": "../main"},
        {"ref": ""},
        {"repository": OPTION},
        {"repository": "-x"},
        {"repository": "a\nb"},
        {"goes_on_from": "../../x"},
        {"goes_on_from": "/abs"},
        {"goes_on_from": "."},
        {"goes_on_from": "00000000-0000-4000-8000-00000000000/"},
        {"goes_on_from": "00000000-0000-4000-8000-000000000000\n"},
        {"recovers": "..\x00"},
    ],
)
def test_texts_that_are_no_values_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RunParameters.model_validate({"source": "git", **parameters})


def test_schema_of_the_form_holds_the_same_patterns() -> None:
    kinds = {name: RunParameters.model_json_schema()["properties"][name]["anyOf"][0] for name in ("ref", "repository", "goes_on_from")}
    for name, value, wrong in (("ref", "main", "-x"), ("repository", "/srv/a", "-x"), ("goes_on_from", str(uuid4()), "..")):
        assert re.search(kinds[name]["pattern"], value)
        assert not re.search(kinds[name]["pattern"], wrong)


@given(
    text=st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=12).filter(
        lambda it: it[0] != "-"
    )
)
@settings(max_examples=60, deadline=None)
def test_refs_pass_as_git_has_them(text: str) -> None:
    git = subprocess.run(["git", "check-ref-format", "--allow-onelevel", text], check=False).returncode == 0
    assert bool(re.search(REF, text)) == git


@pytest.mark.parametrize(
    "value", ["--upload-pack=touch ran;git-upload-pack", "ext::sh -c touch% ran", "git://127.0.0.1:9/x", "http://127.0.0.1:9/x"]
)
def test_text_past_the_schema_runs_no_command(checkout: Path, value: str) -> None:
    wanted = GIT.model_copy(update={"repository": value})
    allow(checkout, value)
    with pytest.raises(UserError, match="git fetch failed"):
        open_workspace(Checkout(checkout), wanted, "one")
    with pytest.raises(UserError, match="git fetch failed"):
        fetched_file(Checkout(checkout), wanted, "data.dvc")
    with pytest.raises(UserError, match="git check-ref-format failed"):
        open_workspace(Checkout(checkout), GIT.model_copy(update={"ref": "--upload-pack=touch ran"}), "two")
    assert not list(checkout.rglob("ran"))


@pytest.mark.parametrize("run_id", ["../../x", "/abs", ".", "..", "a/b", ""])
def test_clone_stays_in_the_folder_of_clones(checkout: Path, run_id: str) -> None:
    with pytest.raises(UserError, match="no id of a run"):
        open_workspace(Checkout(checkout), GIT, run_id)


def allow(checkout: Path, *repositories: str) -> None:
    """Write deployments.repositories of a checkout."""
    path = checkout / "ops.yaml"
    path.write_text(path.read_text().replace("  repositories: []", f"  repositories: {json.dumps(repositories)}"))


def test_only_listed_repositories_are_cloned(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(checkout), str(other))
    wanted = RunParameters(source="git", repository=str(other))
    for make in (lambda: open_workspace(Checkout(checkout), wanted, "one"), lambda: fetched_file(Checkout(checkout), wanted, "data.dvc")):
        with pytest.raises(UserError, match=r"deployments\.repositories"):
            make()
    assert open_workspace(Checkout(checkout), RunParameters(source="git", repository=str(checkout)), "own").commit
    allow(checkout, str(other))
    assert open_workspace(Checkout(checkout), wanted, "one").commit == git(other, "rev-parse", "HEAD").strip()


def test_settings_of_a_clone_allow_no_repository(checkout: Path, tmp_path: Path) -> None:
    clone = open_workspace(Checkout(checkout), GIT, "one").checkout
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(checkout), str(other))
    allow(clone.root, str(other))
    with pytest.raises(UserError, match=r"deployments\.repositories"):
        open_workspace(clone, RunParameters(source="git", repository=str(other)), "two")


def test_file_is_read_at_ref_without_clone(checkout: Path) -> None:
    committed = git(checkout, "show", "HEAD:data.dvc")
    (checkout / "data.dvc").write_text("an edit")
    assert fetched_file(Checkout(checkout), GIT, "data.dvc") == committed.strip()
    assert fetched_file(Checkout(checkout), GIT, "no-such-file") is None
    assert not (clones_folder(Checkout(checkout)) / "one").exists()
