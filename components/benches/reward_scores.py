"""What a benchmark says of a reward model, from the scores of its answers.

- ACC is correct rows over rows, ACC+ the share of questions with every row right (paper section 3.2). A tie in scores is wrong, and counted.
- The macro mean averages the categories' ACC, each with the same weight.
- Beside the model stand three baselines: the same model over grey pictures, a table of word counts of the training answers, and the longer answer.
- Intervals resample clusters: questions that share a picture or a wording are drawn together, by whichever of the two makes fewer clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.benches.reward_bench import BenchPair, RewardBench
from components.benches.reward_tasks import ANNOTATED, BARE, BLANK, OWN, Scores
from components.evaluation.text_baseline import text_scores
from components.preferences.record import Query
from components.statistics import Bootstrap

TEXT, LENGTH = "text_only", "length_only"
SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("category", pa.string()),
        ("picture", pa.string()),
        ("wording", pa.string()),
        ("pairs", pa.int32()),
        ("correct", pa.int32()),
    ]
)


def baselines(bench: RewardBench, training: Sequence[Query] | None) -> dict[str, Scores]:
    """Scores that need no model: by the words of training answers (none without training queries), and by length in characters."""
    scores: dict[str, Scores] = {TEXT: {}, LENGTH: {}}
    for number, query in enumerate(bench.queries):
        scores[LENGTH] |= {(number, index): float(len(response.text)) for index, response in enumerate(query.responses)}
    if training is not None:
        numbers = {query.id: number for number, query in enumerate(bench.queries)}
        scores[TEXT] = {(numbers[name], index): value for (name, index), value in text_scores(training, bench.queries).items()}
    return scores


def right(pair: BenchPair, scores: Scores) -> bool | None:
    """Whether the better answer scores higher; None where either has no score."""
    better, worse = scores.get((pair.query, pair.better)), scores.get((pair.query, pair.worse))
    return None if better is None or worse is None else better > worse


def summary(bench: RewardBench, scores: Mapping[str, Scores], bootstrap: Bootstrap) -> dict[str, Any]:
    """The result's keys. A figure without a single row is None."""
    own = scores[OWN]
    questions = _by_question(bench, own)
    categories = sorted({pair.category for pair in bench.pairs})
    clusters = clusters_of(bench)
    intervals: dict[str, list[float] | None] = {
        "acc": _interval(questions, clusters, bootstrap, lambda pairs, correct: (correct, pairs)),
        "acc_plus": _interval(questions, clusters, bootstrap, lambda pairs, correct: (int(correct == pairs), 1)),
    }
    others: dict[str, float | None] = {}
    for name in (BLANK, BARE, ANNOTATED, TEXT, LENGTH):
        judged = _by_question(bench, scores[name])
        others[name] = _acc(judged)
        intervals[name] = _interval(judged, clusters, bootstrap, lambda pairs, correct: (correct, pairs))
    by_category = {}
    for category in categories:
        chosen = _by_question(bench, own, category)
        by_category[category] = {"acc": _acc(chosen), "acc_plus": _acc_plus(chosen), "n_pairs": _pairs(chosen), "n_queries": len(chosen)}
        intervals[f"by_category.{category}"] = _interval(chosen, clusters, bootstrap, lambda pairs, correct: (correct, pairs))
    return {
        "overall": {"acc": _acc(questions), "acc_plus": _acc_plus(questions)},
        "by_category": by_category,
        "macro": math.fsum(entry["acc"] or 0.0 for entry in by_category.values()) / len(by_category),
        "n_pairs": len(bench.pairs),
        "n_queries": len(questions),
        "n_clusters": len(set(clusters.values())),
        "ties": sum(own[pair.query, pair.better] == own[pair.query, pair.worse] for pair in bench.pairs),
        **others,
        "intervals": intervals,
        "refused": [{"row": refusal.row, "reason": refusal.reason} for refusal in bench.refused],
    }


def write_rows(path: Any, bench: RewardBench, scores: Scores) -> None:
    """Write one row a question: its category, its clusters, its rows, and how many of them are right. Two models are compared by these."""
    first = {pair.question: (pair.category, bench.queries[pair.query].clusters) for pair in reversed(bench.pairs)}
    rows = [
        {
            "question": name,
            "category": first[name][0],
            **{kind: first[name][1].get(kind) for kind in ("picture", "wording")},
            "pairs": pairs,
            "correct": correct,
        }
        for name, (pairs, correct) in _by_question(bench, scores).items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def clusters_of(bench: RewardBench) -> dict[str, str]:
    """The cluster of each question: its picture or its wording, whichever is shared more."""
    shared = [
        {pair.question: bench.queries[pair.query].clusters.get(kind, pair.question) for pair in reversed(bench.pairs)}
        for kind in ("picture", "wording")
    ]
    return min(shared, key=lambda clusters: len(set(clusters.values())))


Counted = dict[str, tuple[int, int]]  # question to (rows, correct ones)


def _by_question(bench: RewardBench, scores: Scores, category: str | None = None) -> Counted:
    counted: Counted = {}
    for pair in bench.pairs:
        judged = right(pair, scores)
        if judged is not None and category in {None, pair.category}:
            pairs, correct = counted.get(pair.question, (0, 0))
            counted[pair.question] = (pairs + 1, correct + judged)
    return counted


def _pairs(questions: Counted) -> int:
    return sum(pairs for pairs, _ in questions.values())


def _acc(questions: Counted) -> float | None:
    return sum(correct for _, correct in questions.values()) / _pairs(questions) if questions else None


def _acc_plus(questions: Counted) -> float | None:
    return sum(pairs == correct for pairs, correct in questions.values()) / len(questions) if questions else None


def _interval(
    questions: Counted, clusters: Mapping[str, str], bootstrap: Bootstrap, ratio: Callable[[int, int], tuple[int, int]]
) -> list[float] | None:
    sums: dict[str, list[int]] = {}
    for name, (pairs, correct) in questions.items():
        top, bottom = ratio(pairs, correct)
        total = sums.setdefault(clusters[name], [0, 0])
        total[0] += top
        total[1] += bottom
    interval = bootstrap.ratio([float(top) for top, _ in sums.values()], [float(bottom) for _, bottom in sums.values()])
    return None if interval is None else [interval[1], interval[2]]
