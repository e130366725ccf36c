"""The benchmark of a team's data: every poison is refused for its reason, a stranger's file counts, the measurements run in minute sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import _poisons, data

KEYS = {
    "validate_seconds",
    "validate_peak_gb",
    "import_rows_per_second",
    "second_validation_share",
    "poison_caught",
    "poison_total",
    "good_rows_lost",
    "near_duplicates_recall",
    "near_duplicates_precision",
}


def test_every_poison_is_refused_for_its_reason(tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = data.poisoning(tmp_path, tiny_base, [_poisons.FOLDER])
    assert report == {"poison_total": report["poison_total"], "poison_caught": report["poison_total"], "good_rows_lost": 0}, (
        capsys.readouterr().err
    )
    assert report["poison_total"] >= 150
    names = [poison.name for poison in _poisons.read_poisons(_poisons.FOLDER)]
    assert len(set(names)) == len(names)


def test_file_of_a_stranger_is_compared(tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poisons = [
        {"name": "right", "field": "question", "reason": "is empty", "row": {"question": " "}},
        {"name": "other reason", "field": "question", "reason": "is missing", "row": {"question": " "}},
        {"name": "accepted", "field": "id", "reason": "odd", "row": {"id": "odd"}},
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own.jsonl").write_text("\n".join(map(json.dumps, poisons)))
    assert data.poisoning(tmp_path / "checkout", tiny_base, [tmp_path / "mine"]) == {
        "poison_total": 3,
        "poison_caught": 1,
        "good_rows_lost": 0,
    }
    error = capsys.readouterr().err
    assert "other reason: expected 'question: ...is missing...', not 'question: is empty'" in error
    assert "accepted: line 5 is accepted" in error


def test_copies_differ_from_other_photographs() -> None:
    report = data.near_duplicates(20)
    assert report["near_duplicates_recall"] >= data.BOUND
    assert report["near_duplicates_precision"] >= data.BOUND


def test_rows_have_four_pairs_and_a_kilobyte() -> None:
    lines = list(data.rows(300, 0))
    rows = [json.loads(line) for line in lines]
    assert sum(len(row["models_output"]) * (len(row["models_output"]) - 1) // 2 for row in rows) == 4 * len(rows)
    assert 800 <= sum(map(len, lines)) / len(lines) <= 1200
    assert len({row["id"] for row in rows}) == 300


@pytest.mark.slow
def test_whole_benchmark_runs_in_minute_sizes(tiny_base: Path) -> None:
    report = data.measure(tiny_base, [_poisons.FOLDER], small=True)
    assert report.keys() >= KEYS
    assert report["pairs"] == 4 * report["rows"]
