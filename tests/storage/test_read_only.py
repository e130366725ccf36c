"""A checkout that takes no writes, from nobody or not from this user: commands that only show something work, others end with a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.storage import repository
from components.storage.plan import plan
from tests.namespaces import READ_ONLY, STRANGER, mmalign_where

KINDS = {"mounted read-only": (READ_ONLY, False), "of another user": ("true", True)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """What a shell does first, and whether a stranger runs the command."""
    return KINDS[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "status"])
@pytest.mark.parametrize("fresh", [False, True])
def test_read_only_checkout_shows_stale_stages(checkout: Path, kind: tuple[str, bool], command: str, fresh: bool) -> None:
    if fresh:
        shutil.rmtree(checkout / ".dvc/tmp")  # as in a clone, in which no command of DVC has run
    completed = mmalign_where(checkout, kind[0], command, stranger=kind[1])
    assert completed.returncode == 0, completed.stderr
    assert "has no record in dvc.lock" in completed.stdout
    for trouble in ("Read-only", "Permission", "getpwuid"):
        assert trouble not in completed.stdout + completed.stderr


@pytest.mark.slow
def test_doctor_names_unwritable_checkout_and_checks_all_else(checkout: Path, kind: tuple[str, bool]) -> None:
    shutil.rmtree(checkout / ".dvc/tmp")
    completed = mmalign_where(checkout, kind[0], "doctor", "--json", stranger=kind[1])
    findings = {finding["name"]: finding for finding in json.loads(completed.stdout)["checks"]}
    assert completed.returncode == 1
    assert str(checkout / ".dvc") in findings["writable folders"]["found"]
    assert [name for name, finding in findings.items() if "the check itself failed" in finding["found"]] == []
    if kind[1]:
        assert findings["git"]["cure"] == f"git config --global --add safe.directory {checkout}"


@pytest.mark.slow
@pytest.mark.parametrize("command", [("run",), ("up", "--detach"), ("clean",), ("stage", "validate")])
def test_command_that_writes_ends_with_one_sentence(checkout: Path, kind: tuple[str, bool], command: tuple[str, ...]) -> None:
    completed = mmalign_where(checkout, kind[0], *command, stranger=kind[1])
    assert completed.returncode == 2, completed.stderr
    assert completed.stderr.count("\n") == 1
    wanted = "this user may not open or change " if kind[1] else "lies on a file system without the right to write"
    assert wanted in completed.stderr
    assert str(checkout) in completed.stderr
    assert str(STRANGER) not in completed.stdout


def test_reader_leaves_no_notes_of_dvc(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(checkout / ".dvc/tmp")
    monkeypatch.setattr(repository, "is_writable", lambda _: False)
    steps = plan(Checkout(checkout))
    assert steps["validate"].reason == "has no record in dvc.lock"
    assert not (checkout / ".dvc/tmp").exists()
