"""Lists that belong together and differ in length are refused: a row that is lost in silence would shift every row behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.evaluation.answers import Answered, judge_answers, write_answers
from components.evaluation.judge import GroundTruthJudge, Verdict
from components.evaluation.metrics import balanced_accuracy, policy_metrics, win_metrics
from components.evaluation.results import write_policy_results
from components.evaluation.samples import choose
from components.evaluation.scores import OwnCritique, variants, write_scores
from components.preferences.record import Query, Response
from components.statistics import Intervals

ONE = Query.single("a", "short", "?", (Response("x", 1, critique="c"),))
TWO = Query.single("b", "short", "?", (Response("y", 1, critique="c"),))
RIGHT = Verdict(True, None, None, None, False)
INTERVALS = Intervals(0.9)
OWN = {("a", 0): OwnCritique("", 0.0), ("b", 0): OwnCritique("", 0.0)}

CALLS: dict[str, Callable[[Path], Any]] = {
    "more queries than answers": lambda _: judge_answers("p", [ONE, TWO], [("x", True)], GroundTruthJudge({})),
    "more queries than verdicts": lambda _: policy_metrics("p", [ONE, TWO], [RIGHT], ["x", "y"], INTERVALS),
    "more verdicts than queries": lambda _: policy_metrics("p", [ONE], [RIGHT, RIGHT], ["x"], INTERVALS),
    "fewer texts than queries": lambda _: policy_metrics("p", [ONE, TWO], [RIGHT, RIGHT], ["x"], INTERVALS),
    "fewer base verdicts": lambda _: win_metrics([ONE, TWO], [True, True], [RIGHT], [RIGHT, RIGHT], INTERVALS),
    "fewer aligned verdicts": lambda _: win_metrics([ONE, TWO], [True, True], [RIGHT, RIGHT], [RIGHT], INTERVALS),
    "fewer flags": lambda _: win_metrics([ONE, TWO], [True], [RIGHT, RIGHT], [RIGHT, RIGHT], INTERVALS),
    "fewer judged critiques": lambda _: balanced_accuracy([True, False, True], [True, False]),
    "a table with too few answers": lambda p: write_answers(p, [ONE, TWO], [Answered("p", ["x"], [RIGHT, RIGHT])]),
    "a table with too few verdicts": lambda p: write_answers(p, [ONE, TWO], [Answered("p", ["x", "y"], [RIGHT])]),
    "results with too few verdicts": lambda p: write_policy_results(p, [ONE, TWO], [RIGHT], None),
    "samples of unequal policies": lambda _: choose([ONE], Answered("b", ["x"], [RIGHT]), Answered("a", ["x", "y"], [RIGHT, RIGHT]), 1),
    "too few scores on given critiques": lambda _: variants([ONE, TWO], [("", 0.0)] * 2, [0.0], [0.0] * 2),
    "too few scores without critiques": lambda _: variants([ONE, TWO], [("", 0.0)] * 2, [0.0] * 2, [0.0]),
    "too few over blanked media": lambda _: variants([ONE, TWO], [("", 0.0)], [0.0] * 2, [0.0] * 2),
    "too few critique verdicts": lambda p: write_scores(p, [ONE, TWO], OWN, {}, ([None], [None, None])),
    "too few judge's verdicts": lambda p: write_scores(p, [ONE, TWO], OWN, {}, ([None, None], [None])),
}


@pytest.mark.parametrize("name", CALLS)
def test_unequal_lengths_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        CALLS[name](tmp_path / "table.parquet")
