"""What a benchmark says of a reward model, from the scores of its answers.

- ACC is correct rows over rows, ACC+ the share of questions with every row right (paper section 3.2). A tie in scores is wrong, and counted.
- The macro mean averages the categories' ACC, each with the same weight.
- Beside the model stand three baselines: the same model over grey pictures, a table of word counts of the training answers, and the longer answer.
- Intervals count questions that share a picture or a wording together (components/statistics.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.benches.reward_bench import BenchPair, RewardBench
from components.benches.reward_tasks import ANNOTATED, BARE, BLANK, OWN, Scores
from components.evaluation.text_baseline import text_scores
from components.preferences.record import Query
from components.statistics import Interval, Intervals

TEXT, LENGTH = "text_only", "length_only"


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


def summary(bench: RewardBench, scores: Mapping[str, Scores], intervals: Intervals) -> dict[str, Any]:
    """The result's keys. A figure without a single row is None."""
    own = scores[OWN]
    questions = _by_question(bench, own)
    clusters = clusters_of(bench)
    whole = intervals.share(*_cases(questions, clusters))
    assert whole is not None, "a benchmark has rows"
    ends: dict[str, list[float] | None] = {
        "acc": _ends(whole),
        "acc_plus": _ends(intervals.share(*_cases({name: (1, int(p == c)) for name, (p, c) in questions.items()}, clusters))),
    }
    others: dict[str, float | None] = {}
    for name in (BLANK, BARE, ANNOTATED, TEXT, LENGTH):
        judged = _by_question(bench, scores[name])
        others[name] = _acc(judged)
        ends[name] = _ends(intervals.share(*_cases(judged, clusters)))
    by_category = {}
    for category in sorted({pair.category for pair in bench.pairs}):
        chosen = _by_question(bench, own, category)
        by_category[category] = {"acc": _acc(chosen), "acc_plus": _acc_plus(chosen), "n_pairs": _pairs(chosen), "n_queries": len(chosen)}
        ends[f"by_category.{category}"] = _ends(intervals.share(*_cases(chosen, clusters)))
    return {
        "overall": {"acc": _acc(questions), "acc_plus": _acc_plus(questions)},
        "by_category": by_category,
        "macro": math.fsum(entry["acc"] or 0.0 for entry in by_category.values()) / len(by_category),
        "n_pairs": len(bench.pairs),
        "n_queries": len(questions),
        "n_clusters": whole.groups,
        "ties": sum(own[pair.query, pair.better] == own[pair.query, pair.worse] for pair in bench.pairs),
        **others,
        "intervals": ends,
        "refused": [{"row": refusal.row, "reason": refusal.reason} for refusal in bench.refused],
    }


def rows_of(bench: RewardBench, scores: Scores) -> list[dict[str, Any]]:
    """One row a question for comparisons: its category, its clusters, its rows, and how many of them are right."""
    categories = {pair.question: pair.category for pair in reversed(bench.pairs)}
    clusters = clusters_of(bench)
    return [
        {"id": name, "category": categories[name], "pairs": pairs, "correct": float(correct), "clusters": clusters[name]}
        for name, (pairs, correct) in _by_question(bench, scores).items()
    ]


def clusters_of(bench: RewardBench) -> dict[str, dict[str, str]]:
    """What each question shares with others, by its first row."""
    return {pair.question: bench.queries[pair.query].clusters for pair in reversed(bench.pairs)}


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


def _cases(questions: Counted, clusters: Mapping[str, dict[str, str]]) -> tuple[list[float], list[float], list[dict[str, str]]]:
    counts = list(questions.values())
    return [float(correct) for _, correct in counts], [float(pairs) for pairs, _ in counts], [clusters[name] for name in questions]


def _ends(interval: Interval | None) -> list[float] | None:
    """Both ends; None without rows, and with too few clusters to say anything."""
    return None if interval is None or interval.low is None or interval.high is None else [interval.low, interval.high]
