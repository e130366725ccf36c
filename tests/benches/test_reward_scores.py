"""ACC, ACC+, ties, macro mean and baselines on a benchmark of six rows, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.benches.reward_bench import BenchPair, Refusal, RewardBench
from components.benches.reward_scores import baselines, rows_of, summary
from components.benches.rows import read_rows, write_rows
from components.preferences.record import Query, Response
from components.statistics import Intervals

INTERVALS = Intervals(0.95)
ANSWERS = (("aa", "b", "cc"), ("dd", "e"), ("f", "gg"))
# Question q has four rows over three answers, r and s have one each; s is about the picture of r.
PAIRS = [
    BenchPair("q", "long", 0, 0, 1),
    BenchPair("q", "long", 0, 0, 2),
    BenchPair("q", "long", 0, 1, 2),
    BenchPair("q", "long", 0, 0, 1),
    BenchPair("r", "short", 1, 0, 1),
    BenchPair("s", "short", 2, 0, 1),
]
OWN = {(0, 0): 3.0, (0, 1): 2.0, (0, 2): 2.0, (1, 0): 1.0, (1, 1): 0.0, (2, 0): 5.0, (2, 1): 4.0}


def query(number: int) -> Query:
    responses = tuple(Response(text, 1) for text in ANSWERS[number])
    picture = {0: "p", 1: "r", 2: "r"}[number]
    return Query.single(f"{number}/x", "short", f"Question {number}?", responses, clusters={"picture": picture, "wording": f"w{number}"})


@pytest.fixture
def bench() -> RewardBench:
    return RewardBench([query(number) for number in range(3)], list(PAIRS), [Refusal(9, "id: is missing")])


def scores(**changes: Any) -> dict[str, Any]:
    return {"own": OWN, "blank_image": {}, "no_critique": OWN, "given_critique": {}, "text_only": {}, "length_only": {}, **changes}


def test_acc_counts_rows_and_acc_plus_counts_questions(bench: RewardBench) -> None:
    result = summary(bench, scores(), INTERVALS)
    # The row of answers 1 and 2 is a tie, and wrong: 5 of 6 rows, and 2 of 3 questions with every row right.
    assert result["overall"] == {"acc": 5 / 6, "acc_plus": 2 / 3}
    assert (result["n_pairs"], result["n_queries"], result["n_clusters"], result["ties"]) == (6, 3, 2, 1)
    assert result["by_category"]["long"] == {"acc": 3 / 4, "acc_plus": 0.0, "n_pairs": 4, "n_queries": 1}
    assert result["by_category"]["short"] == {"acc": 1.0, "acc_plus": 1.0, "n_pairs": 2, "n_queries": 2}
    assert result["macro"] == (3 / 4 + 1) / 2
    assert result["refused"] == [{"row": 9, "reason": "id: is missing"}]


def test_figure_without_scores_is_null(bench: RewardBench) -> None:
    result = summary(bench, scores(), INTERVALS)
    assert (result["given_critique"], result["intervals"]["given_critique"]) == (None, None)
    only_r = {key: value for key, value in OWN.items() if key[0] == 1}
    assert summary(bench, scores(given_critique=only_r), INTERVALS)["given_critique"] == 1.0


def test_longer_answer_wins_by_length_alone(bench: RewardBench) -> None:
    lengths = baselines(bench, None)["length_only"]
    # Right: q 0>1, r, q 0>1 again. Wrong: q 0 and 2 are equally long, 1 is shorter than 2, and s prefers the shorter.
    assert summary(bench, scores(length_only=lengths), INTERVALS)["length_only"] == 3 / 6


def test_word_counts_of_training_order_answers(bench: RewardBench) -> None:
    training = [Query.single("t", "short", "?", (Response("f", 1), Response("gg", 2), Response("e", 1), Response("dd", 2)))]
    words = baselines(bench, training)["text_only"]
    # "f" and "e" stand in better answers, "gg" and "dd" in worse ones: s is right, r is wrong, q has no word of training.
    assert summary(bench, scores(text_only=words), INTERVALS)["text_only"] == 1 / 6
    assert baselines(bench, None)["text_only"] == {}


def test_too_few_clusters_have_no_interval(bench: RewardBench) -> None:
    result = summary(bench, scores(), INTERVALS)
    assert result["n_clusters"] == 2
    assert set(result["intervals"].values()) == {None}


def test_intervals_count_questions_of_one_picture_together() -> None:
    def wide(shared: bool) -> list[float]:
        queries = [replace(query(1), id=f"{n}/x", clusters={"picture": str(n // 3 if shared else n)}) for n in range(90)]
        bench = RewardBench(queries, [BenchPair(str(n), "short", n, 0, 1) for n in range(90)])
        own = {(n, index): float(index == (n // 3) % 2) for n in range(90) for index in range(2)}
        interval: list[float] = summary(bench, scores(own=own), INTERVALS)["intervals"]["acc"]
        return interval

    apart, together = wide(shared=False), wide(shared=True)
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])


def test_table_has_a_row_a_question(bench: RewardBench, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", rows_of(bench, OWN))
    assert read_rows(tmp_path / "rows.parquet") == [
        {"id": "q", "category": "long", "pairs": 4, "correct": 3.0, "clusters": {"picture": "p", "wording": "w0"}},
        {"id": "r", "category": "short", "pairs": 1, "correct": 1.0, "clusters": {"picture": "r", "wording": "w1"}},
        {"id": "s", "category": "short", "pairs": 1, "correct": 1.0, "clusters": {"picture": "r", "wording": "w2"}},
    ]
