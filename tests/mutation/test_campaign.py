from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binomtest

from tests.mutation.campaign import Clean, CleanRunError, Score, prepare, task_for, wilson
from tests.mutation.mutant import Mutant
from tests.mutation.packages import Package

SOURCE = "room/losses.py"


def mutant(first: int, last: int, *, shared: bool = False) -> Mutant:
    return Mutant(SOURCE, first, "boolean", 0, 1, "", "", "", first, last, shared)


def timed(seconds: float, *lines: int) -> dict[str, object]:
    return {"seconds": seconds, "lines": {SOURCE: list(lines)} if lines else {}}


CLEAN = {
    "test_all.py": Clean({"all": timed(0.1, 3), "other": timed(0.1, 9)}, {SOURCE}),
    "test_losses.py": Clean({"slow": timed(4.0, 4), "fast": timed(0.1, 3)}, {SOURCE}),
    "test_import.py": Clean({"import": timed(0.1)}, {SOURCE}),
    "test_far.py": Clean({"far": timed(0.1)}, set()),
}


def test_tests_that_reach_the_statement_run_the_files_own_first() -> None:
    task = task_for(mutant(2, 4), sorted(CLEAN), CLEAN)
    assert task is not None
    assert task.files == ("test_losses.py", "test_all.py")
    assert task.tests == ("fast", "slow", "all")
    assert task.cpu_seconds == 19  # ten, and twice 4.2 seconds


def test_mutant_of_import_time_meets_every_test_that_loads_it() -> None:
    task = task_for(mutant(1, 1, shared=True), sorted(CLEAN), CLEAN)
    assert task is not None
    assert task.files == ("test_losses.py", "test_all.py", "test_import.py")


def test_mutant_that_no_test_reaches_has_no_task() -> None:
    assert task_for(mutant(5, 8), sorted(CLEAN), CLEAN) is None


@pytest.mark.parametrize(("events", "n"), [(0, 20), (51, 60), (60, 60)])
def test_interval_of_a_score_is_that_of_scipy(events: int, n: int) -> None:
    interval = binomtest(events, n).proportion_ci(method="wilson")
    assert wilson(events, n) == pytest.approx((interval.low, interval.high))


def test_equivalent_mutant_is_not_counted_and_a_stale_row_stops(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / SOURCE).write_text("def f(a, b):\n    return a + b < a - b\n")
    package = Package("room", (SOURCE,), ())
    (every,) = prepare(tmp_path, [package], 60, 0, {})
    assert (every.mutants, every.judged) == (3, 3)
    (score,) = prepare(tmp_path, [package], 60, 0, {every.sample[0].digest: SOURCE})
    assert score.judged == 2
    with pytest.raises(CleanRunError, match="0123456789"):
        prepare(tmp_path, [package], 60, 0, {"0123456789": SOURCE})


def test_score_is_killed_over_judged() -> None:
    sample = [mutant(n, n) for n in range(20)]
    score = Score(Package("room", (), ()), 0, 20, sample, sample[:1], killed=[(m, "") for m in sample[1:18]])
    assert score.score == pytest.approx(17 / 19)
