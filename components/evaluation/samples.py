"""Answers side by side for people: artifacts/evaluate/samples, as JSONL and as one page without a network.

The worst regressions come first, then gains, then the rest, spread over the categories.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.evaluation.answers import Answered
from components.evaluation.gallery import render, thumbnails
from components.evaluation.verdict import Verdict
from components.files import write_atomic
from components.preferences.colors import WHITE
from components.preferences.record import CATEGORIES, Query
from components.preferences.turns import transcript


@dataclass(frozen=True)
class ShownCritique:
    """What the reward model says of an answer: a critique, None by a model without critiques, and a score."""

    critique: str | None
    score: float


def choose(queries: Sequence[Query], base: Answered, aligned: Answered, limit: int) -> list[int]:
    """Indices of the queries to show: regressions, then gains, then the rest; within each, categories in turn."""
    changes = [_change(b, a) for b, a in zip(base.verdicts, aligned.verdicts, strict=True)]
    chosen: list[int] = []
    for change in ("worse", "better", "same"):
        queues = [[i for i, query in enumerate(queries) if query.category == category and changes[i] == change] for category in CATEGORIES]
        # the worst first: an answer that became degenerate or unsafe before one that became wrong
        for queue in queues:
            queue.sort(key=lambda i: (not aligned.verdicts[i].degenerate, aligned.verdicts[i].safe is not False, i))
        chosen += [queue[position] for position in range(max(map(len, queues))) for queue in queues if position < len(queue)]
    return chosen[:limit]


def _change(base: Verdict, aligned: Verdict) -> str:
    if base.good is None or aligned.good is None or base.good == aligned.good:
        return "same"
    return "better" if aligned.good else "worse"


def _mark(verdict: Verdict) -> str:
    if verdict.degenerate:
        return "degenerate"
    if verdict.safe is not None:
        return "safe" if verdict.safe else "unsafe"
    if verdict.right is None:
        return "not judged"
    word = "right" if verdict.right else "wrong"
    return f"{word}, refused" if verdict.refused else word


def write_samples(
    folder: Path,
    media_root: Path,
    queries: Sequence[Query],
    chosen: Sequence[int],
    policies: Sequence[Answered],
    judgements: dict[str, list[ShownCritique]],
    background: str = WHITE,
) -> None:
    """Write samples.jsonl and samples.html for the `chosen` queries; `judgements` by policy, one a chosen query."""
    base, aligned = policies
    rows = [
        {
            "id": queries[i].id,
            "category": queries[i].category,
            "prompt": transcript(queries[i]),
            "media": [medium.path for medium in queries[i].media],
            "change": _change(base.verdicts[i], aligned.verdicts[i]),
            "policies": [
                {
                    "policy": answered.policy,
                    "answer": answered.answers[i],
                    "good": answered.verdicts[i].good,
                    "mark": _mark(answered.verdicts[i]),
                    "critique": judgements[answered.policy][number].critique,
                    "score": judgements[answered.policy][number].score,
                }
                for answered in policies
            ],
        }
        for number, i in enumerate(chosen)
    ]
    write_atomic(folder / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    images = thumbnails(media_root, [queries[i] for i in chosen], background)
    write_atomic(folder / "samples.html", render(rows, images) + "\n")
