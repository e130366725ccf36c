from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.operations.preconditions.checks import require
from components.operations.preconditions.ground_truth import ground_truth
from tests.conftest import ROOT
from tests.operations.preconditions.conftest import Situated

CASE = ROOT / "tests/cases/09-truth-broken-late"


@pytest.fixture
def ground_truth_file(checkout: Path) -> Path:
    """The file of facts of a checkout whose held-out rows have the ids of the case, in small letters."""
    ids = [json.loads(line)["id"] for line in (CASE / "truth-ids.jsonl").read_text("utf-8").split("\n") if line]
    rows = [{"id": identity.lower(), "question": "What?", "models_output": ["a", "b"], "final_ranking": [1, 2]} for identity in ids]
    heldout = checkout / "data/preferences/heldout.jsonl"
    heldout.unlink()
    heldout.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = checkout / "data/truth/truth.jsonl"
    path.unlink()
    return path


def test_ids_of_no_row_are_shown_with_the_near_one(situated: Situated, ground_truth_file: Path) -> None:
    shutil.copy(CASE / "truth-ids.jsonl", ground_truth_file)
    finding = ground_truth(situated())
    assert finding.state == "warning"
    assert "facts are of no row in heldout.jsonl, such as 'SHORT_COLOUR-HELDOUT-0000', 'SHORT_COLOUR-HELDOUT-0001'" in finding.text
    assert "(did you mean 'short_colour-heldout-0000'?)" in finding.text


def test_facts_of_rows_are_fine(situated: Situated, ground_truth_file: Path) -> None:
    ground_truth_file.write_text((CASE / "truth-ids.jsonl").read_text("utf-8").lower(), "utf-8")
    assert ground_truth(situated()).state == "ok"
    ground_truth_file.unlink()
    assert ground_truth(situated()).state == "ok"


def test_broken_facts_stop_a_run_before_its_first_stage(situated: Situated, ground_truth_file: Path) -> None:
    shutil.copy(CASE / "truth.jsonl", ground_truth_file)
    finding = ground_truth(situated())
    assert (finding.state, finding.cure) == ("problem", "`evaluate` would stop there after all training")
    assert "truth.jsonl line 3 is no fact (the row is not UTF-8" in finding.text
    with pytest.raises(ValueError, match="line 3 is no fact"):
        require(situated({"model.base": "data/base"}), print)


def test_facts_that_no_stage_reads_are_not_checked(situated: Situated, ground_truth_file: Path) -> None:
    shutil.copy(CASE / "truth.jsonl", ground_truth_file)
    assert ground_truth(situated(stages=("reward",))).state == "ok"
    assert ground_truth(situated({"evaluate.judges": ["rules"]})).state == "ok"
