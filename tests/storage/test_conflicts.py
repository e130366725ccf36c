"""Marks of a merge in DVC's files: one sentence that names the files and a command that ends the conflict."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.operations.doctor.checks import CHECKS
from components.operations.doctor.findings import run_checks
from components.storage.repository import MERGED, open_repository
from tests.checkout import mmalign


def conflicted(path: Path) -> None:
    """Write a file as git leaves it."""
    text = path.read_text() if path.is_file() else "schema: '2.0'\n"
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> theirs\n")


@pytest.mark.parametrize("name", MERGED)
def test_conflicted_file_is_named_with_its_cure(checkout: Path, name: str) -> None:
    conflicted(checkout / name)
    with (
        pytest.raises(UserError, match=rf"{name} holds the marks of a merge conflict .*git checkout --ours -- {name}"),
        open_repository(Checkout(checkout)),
    ):
        pass


def test_doctor_finds_every_conflicted_file(checkout: Path) -> None:
    for name in MERGED:
        conflicted(checkout / name)
    finding = run_checks(Checkout(checkout), {"dvc": CHECKS["dvc"]})["dvc"]
    assert finding.state == "problem"
    assert all(name in finding.text for name in MERGED)


def test_plan_with_conflict_ends_in_a_sentence(checkout: Path) -> None:
    conflicted(checkout / "dvc.lock")
    ended = mmalign(checkout, "plan")
    assert (ended.returncode, "dvc.lock holds the marks of a merge conflict" in ended.stderr) == (2, True), ended.stderr
    assert not list(checkout.glob("logs/fault-*"))
