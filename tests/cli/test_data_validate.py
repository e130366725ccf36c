"""`mmalign data validate`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkout import mmalign, mmalign_here
from tests.conftest import ROOT
from tests.tiny import save_checkout


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Path:
    """A checkout with a base, whose data nobody has described yet."""
    root = tmp_path / "checkout"
    root.mkdir()
    save_checkout(root, tiny_base, tiny_media)
    (root / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    return root


def row(number: int, **changes: object) -> str:
    values = {"id": f"r{number}", "question": f"What is {number}?", "models_output": ["A dog.", "A cat."], "final_ranking": [1, 2]}
    return json.dumps(values | changes)


def test_file_of_rows_is_checked_with_lines_and_counts(checkout: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join([row(0), row(1, question=""), row(2, image="gone.png"), row(3)]))
    completed = mmalign(checkout, "data", "validate", str(own))
    assert completed.returncode == 2
    assert f"{own}: 4 rows, 2 usable, 2 refused: 1 with an empty prompt, 1 with media that are not there" in completed.stdout
    assert f"  {own}:2: question: is empty" in completed.stdout
    assert f"  {own}:3: image: 'gone.png' does not exist" in completed.stdout
    assert "2 of 4 rows are bad" in completed.stderr

    own.write_text("\n".join([row(0), row(3)]))
    completed = mmalign_here(checkout, "data", "validate", str(own), "--json")
    assert completed.returncode == 0
    values = json.loads(completed.stdout)
    assert (values["usable"], values["files"][0]["rows"], values["files"][0]["refused"]) == (True, 2, [])


def test_facts_are_checked_with_their_rows(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "heldout.jsonl").write_text(row(0))
    ground_truth = tmp_path / "truth.jsonl"
    ground_truth.write_text('{"id": "R0", "must": [["dog"]], "must_not": []}\n')
    completed = mmalign_here(checkout, "data", "validate", str(ground_truth))
    assert completed.returncode == 0
    assert "warning: 1 of 1 facts are of no row in heldout.jsonl, such as 'R0' (did you mean 'r0'?)" in completed.stderr
    ground_truth.write_bytes((ROOT / "tests/cases/09-truth-broken-late/truth.jsonl").read_bytes())
    completed = mmalign_here(checkout, "data", "validate", str(ground_truth))
    assert completed.returncode == 2
    assert f"{ground_truth} line 3 is no fact" in completed.stderr
