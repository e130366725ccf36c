"""The paper's arithmetic on its own tables, and on small ones by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from components.benches.arithmetic import Rounded, aggregate, average, half_unit, relative, reproduced
from components.benches.tables import read_results
from components.errors import UserError
from tests.checkout import ROOT

TABLES = ROOT / "tests/golden/mm_rlhf_tables.json"


def d(text: str) -> Decimal:
    return Decimal(text)


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return aggregate(read_results(TABLES))


def test_paper_means_are_those_of_its_rows(paper: dict[str, Any]) -> None:
    talk, unsafe = paper["dimensions"]["conversation"], paper["dimensions"]["unsafe"]
    assert talk["before"] == pytest.approx((90.7 + 65.7 + 50.4 + 15.2) / 4)
    assert talk["after"] == pytest.approx((97.9 + 71.1 + 58.9 + 37.2) / 4, abs=0.006)
    assert unsafe["before"] == pytest.approx((37.0 + 16.7 + 41.2 + 5.8 + 60.4 + 80.1) / 6)
    assert unsafe["after"] == pytest.approx((40.0 + 0 + 8.3 + 0 + 10.6 + 24.2) / 6)
    assert (talk["before"], talk["after"], talk["relative"]) == (55.5, 66.28, 0.194)
    assert (unsafe["before"], unsafe["after"], unsafe["relative"]) == (40.2, 13.85, -0.655)


def test_printed_changes_come_from_rounded_means(paper: dict[str, Any]) -> None:
    assert {(entry["mean"], entry["printed"]) for entry in paper["from_rounded_means"]} == {("conversation", 0.195), ("unsafe", -0.654)}


def test_figures_without_a_source_are_named(paper: dict[str, Any]) -> None:
    named = {(entry["where"], entry["model"], entry["mean"], entry["figure"], entry["printed"]) for entry in paper["not_reproduced"]}
    assert ("Table 3, last two rows", "LLaVA-OV-7B", "safety", "after", 85.4) in named
    assert ("Table 3, last two rows", "InternVL2-1B", "unsafe", "after", 38.9) in named
    assert ("Table 5", "MM-RLHF-Reward-7B", "average", "average", 50.15) in named
    assert ("Table 4, ACC+", "Ours w/o Task 1", "overall", "overall", 0.5) in named
    assert len(named) == 16
    assert paper["printed_figures"] == 12 * 3 + 3 * 4 + 8 + 15


def test_other_model_is_summed_up_by_name() -> None:
    unsafe = aggregate(read_results(TABLES), "InternVL2-1B")["dimensions"]["unsafe"]
    assert (unsafe["before"], unsafe["after"]) == (46.65, 32.07)
    with pytest.raises(UserError, match="no model 'GPT-4o': name one of InternVL2-1B"):
        aggregate(read_results(TABLES), "GPT-4o")


def test_average_carries_rounding_of_its_parts() -> None:
    mean = average([Rounded.of(d("1.0")), Rounded.of(d("2.50"))], [d("1"), d("3")])
    assert mean == Rounded(d("2.125"), (d("0.05") + 3 * d("0.005")) / 4)


def test_relative_change_is_bounded_by_its_rounding() -> None:
    change = relative(Rounded(d("2"), d("0.5")), Rounded(d("3"), d("0.5")))
    # between 2.5 / 2.5 - 1 = 0 and 3.5 / 1.5 - 1 = 4/3
    assert change is not None
    assert change.value == d("0.5")
    assert change.slack == pytest.approx(d("4") / 3 - d("0.5"))
    assert relative(Rounded(d("0.04"), d("0.05")), Rounded(d("1"), d("0"))) is None


@pytest.mark.parametrize(
    ("computed", "slack", "printed", "of_means", "status"),
    [
        ("13.85", "0", "13.9", None, "exact"),
        ("0.1941", "0.0002", "0.195", "0.19459", "from rounded means"),
        ("46.65", "0.05", "46.6", None, "within rounding"),
        ("46.65", "0", "46.5", None, "not reproduced"),
    ],
)
def test_printed_figure_is_traced(computed: str, slack: str, printed: str, of_means: str | None, status: str) -> None:
    means = None if of_means is None else d(of_means)
    assert reproduced(Rounded(d(computed), d(slack)), d(printed), means) == status


def test_half_unit_follows_the_written_digits() -> None:
    assert [half_unit(d(text)) for text in ("1775", "55.50", "0.0045")] == [d("0.5"), d("0.005"), d("0.00005")]


def own_file(folder: Path, **changes: Any) -> Path:
    rows = {"AI2D": [[50, 60]], "ChartQA val-lite": [[50, 60]], "DocVQA val-lite": [[50, 60]], "InfoVQA val-lite": [[50, 80]]}
    rows |= {"VideoChatGPT": [[2.5, 3.0]]}
    values = {"title": "ours", "model": "m", "tables": [{"name": "all", "models": ["m"], "rows": rows}], **changes}
    path = folder / "own.json"
    path.write_text(json.dumps(values))
    return path


def test_own_results_have_the_same_form(tmp_path: Path) -> None:
    means = aggregate(read_results(own_file(tmp_path)))["dimensions"]
    assert (means["chart"]["before"], means["chart"]["after"], means["chart"]["relative"]) == (50.0, 65.0, 0.3)
    assert means["video"]["missing"] == ["Video-MME w. caption", "Video-MME wo. caption", "VideoDC"]
    assert means["video"]["before"] is None


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ([{"name": "t", "models": ["m"], "rows": {"AI2": [[1, 2]]}}], "the catalogue has no row 'AI2'; did you mean 'AI2D'"),
        ([{"name": "t", "models": ["m"], "rows": {"AI2D": [[1, 2], [1, 2]]}}], "row 'AI2D' has 2 pairs for 1 models"),
        ([{"name": t, "models": ["m"], "rows": {"AI2D": [[1, 2]]}} for t in ("a", "b")], "row 'AI2D' stands in two tables"),
        ([{"name": "t", "models": ["other"], "rows": {}}], "model 'm' is in no table: name one of other"),
        ([{"name": "t", "models": ["m"], "rows": {"AI2D": [[1]]}}], "tables.0.rows.AI2D.0"),
    ],
)
def test_faulty_file_is_one_sentence(tmp_path: Path, tables: list[Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_results(own_file(tmp_path, tables=tables))


def test_command_prints_the_means_as_json() -> None:
    command = [sys.executable, "-m", "components.cli.main", "bench", "aggregate", str(TABLES), "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    assert shown["dimensions"]["conversation"]["relative"] == 0.194
    assert shown["dimensions"]["unsafe"]["printed"]["bar chart"]["relative"]["printed"] == -0.654
