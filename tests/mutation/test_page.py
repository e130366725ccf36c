from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.campaign import Score
from tests.mutation.mutant import Mutant
from tests.mutation.packages import Package
from tests.mutation.page import DECLARED, LAST, PageError, read_declared, write_run

HEAD = f"# Mutants\n\n{DECLARED}\n\n| digest | file | operator | change | reason |\n|---|---|---|---|---|\n"
ROW = "| `0123456789` | `a/b.py` | comparison | `a \\| b` → `c` | both are empty |\n"


def page(tmp_path: Path, rows: str) -> Path:
    path = tmp_path / "mutants.md"
    path.write_text(f"{HEAD}{rows}\n{LAST}\n")
    return path


def score(name: str, killed: int, survivor: Mutant | None = None) -> Score:
    sample = [Mutant("a.py", n, "boolean", n, n, "", "x", "y", n, n, False, f"{n}") for n in range(killed)]
    entry = Score(Package(name, (), ()), 5, 90, sample + ([survivor] if survivor else []), [])
    entry.killed = [(mutant, "a test") for mutant in sample]
    entry.survivors = [(survivor, False)] if survivor else []
    return entry


def test_declared_mutant_is_read_with_its_file(tmp_path: Path) -> None:
    assert read_declared(page(tmp_path, ROW)) == {"0123456789": "a/b.py"}


@pytest.mark.parametrize("rows", [ROW.replace("both are empty", ""), ROW.replace("0123456789", "012"), ROW + ROW])
def test_row_without_reason_or_digest_or_a_second_one_is_refused(tmp_path: Path, rows: str) -> None:
    with pytest.raises(PageError):
        read_declared(page(tmp_path, rows))


def test_run_of_one_package_leaves_the_others_and_the_declared(tmp_path: Path) -> None:
    path = page(tmp_path, ROW)
    survivor = Mutant("a.py", 7, "boolean", 1, 2, "", "a | b", "a or b", 7, 7, False, "fedcba9876")
    write_run(path, [score("gate", 3, survivor), score("reward", 2)], 2, 90)
    write_run(path, [score("reward", 9)], 2, 90)
    text = path.read_text()
    assert text.startswith(f"{HEAD}{ROW}")
    assert "| `fedcba9876` | `a.py:7` | boolean (no test reaches it) | `a \\| b` → `a or b` |" in text
    assert "3 of 4 killed" in text
    assert "9 of 9 killed" in text
    assert "2 of 2 killed" not in text
    assert text.count(LAST) == 1
    assert read_declared(path) == {"0123456789": "a/b.py"}


def test_long_line_is_cut_around_its_change(tmp_path: Path) -> None:
    path = page(tmp_path, "")
    long = "f(" + "a, " * 60
    write_run(
        path, [score("gate", 0, Mutant("a.py", 7, "boolean", 1, 2, "", f"{long}True)", f"{long}False)", 7, 7, False, "fedcba9876"))], 2, 90
    )
    (row,) = [line for line in path.read_text().splitlines() if "fedcba9876" in line]
    assert "True)" in row
    assert "False)" in row
    assert len(row) < 350
