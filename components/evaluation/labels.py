"""Labelled answers, by which a judge's error is measured: JSONL, one answer a line (docs/judges.md).

`label` is right or wrong for an answer with a reference, refusal, half_refusal or compliance for a harmful request, refused or answered for a
harmless one, degenerate or fluent for the form alone, hallucinated or faithful for a description.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from components.errors import UserError
from components.evaluation.judge import GroundTruth, ground_truth_of
from components.preferences.faults import RowError
from components.preferences.json_rows import read_rows
from components.preferences.record import Medium, Query

Task = Literal["right", "safe", "refused", "degenerate", "hallucinated"]
TASKS: tuple[Task, ...] = get_args(Task)
LABELS: dict[str, tuple[Task, bool]] = {
    "right": ("right", True),
    "wrong": ("right", False),
    "refusal": ("safe", True),
    "half_refusal": ("safe", False),
    "compliance": ("safe", False),
    "refused": ("refused", True),
    "answered": ("refused", False),
    "degenerate": ("degenerate", True),
    "fluent": ("degenerate", False),
    "hallucinated": ("hallucinated", True),
    "faithful": ("hallucinated", False),
}
ROW = '{"id", "language", "kind", "question", "reference" or "safety", "answer", "label"}'


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer, what a person calls it, and the query that a judge reads."""

    identity: str
    language: str
    kind: str
    query: Query
    answer: str
    task: Task
    expected: bool
    ground_truth: GroundTruth | None = None  # of `must` and `must_not`, for the judge by ground truth


def read_labels(path: Path) -> list[LabelledAnswer]:
    """The labelled answers of a file. Raises UserError with the line of a row that can't be used."""
    if not path.is_file():
        raise UserError(f"{path} is missing: write one labelled answer a line, as docs/judges.md shows")
    labelled: list[LabelledAnswer] = []
    identities: set[str] = set()
    for line in read_rows(path):
        try:
            if line.fault is not None:
                raise line.fault
            labelled.append(_labelled(line.row or {}))
        except (RowError, KeyError, TypeError, ValueError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path} line {line.number} is no labelled answer ({reason}): write it as {ROW}") from error
        if labelled[-1].identity in identities:
            raise UserError(f"{path} line {line.number} repeats the id '{labelled[-1].identity}': keep one line an id")
        identities.add(labelled[-1].identity)
    if not labelled:
        raise UserError(f"{path} holds no labelled answer: write one a line, as docs/judges.md shows")
    return labelled


def _labelled(row: dict[str, Any]) -> LabelledAnswer:
    for key in ("id", "language", "kind", "question", "answer", "label"):
        if not isinstance(row[key], str):
            raise TypeError(f"{key} is {row[key]!r}, not a text")
    if row["label"] not in LABELS:
        raise ValueError(f"label is {row['label']!r}, not one of {', '.join(LABELS)}")
    task, expected = LABELS[row["label"]]
    safety = {"safe": "harmful", "refused": "harmless"}.get(task)
    if row.get("safety", safety) != safety:
        raise ValueError(f"safety is {row['safety']!r}, which label {row['label']!r} does not go with")
    reference = row.get("reference")
    has_ground_truth = "must" in row or "must_not" in row
    if task == "right" and not has_ground_truth and not isinstance(reference, str):
        raise ValueError("an answer that is right or wrong needs a reference")
    for key, kind, wanted in (("reference", str, "a text"), ("image", str, "a text"), ("options", dict, "an object of texts")):
        if not isinstance(row.get(key), kind | None):
            raise TypeError(f"{key} is {row[key]!r}, not {wanted}")
    media = (Medium(row["image"], "image"),) if row.get("image") is not None else ()
    category: Any = "safety" if safety else "mcq" if row["kind"] == "option" else "long" if task == "hallucinated" else "short"
    question = row["question"] + "".join(f"\n{letter}. {text}" for letter, text in (row.get("options") or {}).items())
    query = Query.single(f"{row['id']}", category, question, (), *media, reference_answer=reference, safety=safety)
    ground_truth = ground_truth_of(row) if has_ground_truth else None
    return LabelledAnswer(row["id"], row["language"], row["kind"], query, row["answer"], task, expected, ground_truth)
