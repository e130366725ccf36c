from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.validation.outside import FileReport, advice, files_of, validate_files
from components.validation.reader import Reader
from components.validation.rows import RowChecks
from tests.validation.conftest import DataCheckout

Validate = Callable[[Path], list[FileReport]]


@pytest.fixture
def validate(checkout: DataCheckout) -> Validate:
    """Validate with the settings and the base of the checkout."""
    return lambda path: validate_files(
        path, lambda folder: Reader(RowChecks.of(checkout.settings(), Checkout(checkout.root), folder), None)
    )


def test_refused_rows_are_named_with_line_and_kind(checkout: DataCheckout, validate: Validate) -> None:
    checkout.write("own.jsonl", [checkout.row(0), checkout.row(1, image="short/none.png"), "{", checkout.row(3)])
    (report,) = validate(checkout.preferences / "own.jsonl")
    assert (report.rows, report.usable, report.formats) == (4, 2, ("mm_rlhf",))
    values = report.as_json()
    assert [(item["line"], item["field"], item["kind"]) for item in values["refused"]] == [(2, "image", "media_missing"), (3, "", "json")]
    assert values["kinds"] == {"media_missing": 1, "json": 1}
    assert len(report.problems) == 1
    assert "2 of 4 rows are bad" in report.problems[0]
    assert json.dumps(values)


def test_folder_is_read_like_a_run_with_its_leaks(checkout: DataCheckout, validate: Validate) -> None:
    checkout.write("data.jsonl", [checkout.row(number) for number in range(3)])
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101, image="short/1.png")])
    heldout, train = validate(checkout.preferences)
    assert [Path(report.file).name for report in (heldout, train)] == ["heldout.jsonl", "data.jsonl"]
    assert (heldout.metrics["leaked_queries"], train.problems) == (1, [])
    assert "1 of 2 rows share media (1)" in heldout.problems[0]


def test_array_of_good_rows_has_no_problem(checkout: DataCheckout, validate: Validate) -> None:
    (checkout.preferences / "own.json").write_text(json.dumps([checkout.row(number) for number in range(3)], indent=2))
    (report,) = validate(checkout.preferences / "own.json")
    assert (report.rows, report.usable, report.problems, advice(report)) == (3, 3, [], None)


def test_rows_in_another_format_name_the_command(checkout: DataCheckout, validate: Validate) -> None:
    pairs = [{"prompt": "What is it?", "chosen": "A dog.", "rejected": "A cat."} for _ in range(3)]
    checkout.write("pairs.jsonl", list(pairs))
    (report,) = validate(checkout.preferences / "pairs.jsonl")
    assert (report.usable, len(report.refusals)) == (0, 3)
    assert "trl" in report.formats
    sentence = advice(report)
    assert sentence is not None
    assert sentence.endswith(f"mmalign data import {checkout.preferences / 'pairs.jsonl'}")


def test_problems_of_whole_file_are_collected(checkout: DataCheckout, validate: Validate) -> None:
    checkout.write("ties.jsonl", [checkout.row(number, final_ranking=[1, 1, 1]) for number in range(2)])
    checkout.write("unknown.jsonl", [checkout.row(0, final_ranking="B>A=C")])
    (checkout.preferences / "empty.jsonl").write_bytes(b"[]\n")
    reports = {Path(report.file).name: report for report in validate(checkout.preferences)}
    assert "none of 2 rows ranks one response above a different one" in reports["ties.jsonl"].problems[0]
    assert "unknown encoding" in reports["unknown.jsonl"].problems[0]
    assert "holds no row" in reports["empty.jsonl"].problems[0]


def test_path_without_rows_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        files_of(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no file of rows"):
        files_of(tmp_path)
