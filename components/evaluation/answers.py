"""A policy's answers to the held-out queries with the judge's verdicts, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluation.chain import Chain
from components.evaluation.verdict import Judge, JudgedAnswer, Verdict
from components.preferences.record import Query
from components.preferences.turns import transcript

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("policy", pa.string()),
        ("category", pa.string()),
        ("prompt", pa.string()),
        ("media", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("right", pa.bool_()),
        ("safe", pa.bool_()),
        ("refused", pa.bool_()),
        ("hallucinated", pa.bool_()),
        ("degenerate", pa.bool_()),
        ("judge", pa.string()),  # who decided; "" for nobody
        ("reward", pa.float64()),  # the reward model's score, where it judges all answers
    ]
)


@dataclass(frozen=True)
class Answered:
    """One policy's answers and verdicts, one a query, in the queries' order."""

    policy: str
    answers: list[str]
    verdicts: list[Verdict]
    rewards: list[float] | None = None  # the reward model's score of each answer, where `evaluate.judges` has it judge them
    preferred: list[float | None] | None = None  # the model judge's preference over the base's answer, as `model_preferences` gives it

    def at(self, positions: Sequence[int]) -> Answered:
        """The same of the queries at these positions alone."""
        rewards = None if self.rewards is None else [self.rewards[i] for i in positions]
        preferred = None if self.preferred is None else [self.preferred[i] for i in positions]
        return Answered(self.policy, [self.answers[i] for i in positions], [self.verdicts[i] for i in positions], rewards, preferred)


def judge_answers(policy: str, queries: Sequence[Query], answers: Sequence[tuple[str, bool]], judge: Judge) -> Answered:
    """Judge (answer, whether it ended) of every query; a chain has its model judge asked about all of them at once."""
    if isinstance(judge, Chain):
        judge.prepare([JudgedAnswer(query, text, ended) for query, (text, ended) in zip(queries, answers, strict=True)])
    verdicts = [judge.judge(query, text, ended=ended) for query, (text, ended) in zip(queries, answers, strict=True)]
    return Answered(policy, [text for text, _ in answers], verdicts)


def write_answers(path: Path, queries: Sequence[Query], policies: Sequence[Answered]) -> None:
    """Write one row an answer, policy by policy in the queries' order."""
    rows = [
        {
            "id": query.id,
            "policy": answered.policy,
            "category": query.category,
            "prompt": transcript(query),
            "media": [medium.path for medium in query.media],
            "answer": answer,
            "right": verdict.right,
            "safe": verdict.safe,
            "refused": verdict.refused,
            "hallucinated": verdict.hallucinated,
            "degenerate": verdict.degenerate,
            "judge": verdict.judge,
            "reward": reward,
        }
        for answered in policies
        for query, answer, verdict, reward in zip(
            queries, answered.answers, answered.verdicts, answered.rewards or repeat(None, len(queries)), strict=True
        )
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def read_answers(path: Path, policy: str) -> Answered:
    """A policy's answers and verdicts, as `write_answers` wrote them."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["policy"] == policy]
    verdicts = [Verdict(row["right"], row["safe"], row["refused"], row["hallucinated"], row["degenerate"], row["judge"]) for row in rows]
    return Answered(policy, [row["answer"] for row in rows], verdicts)
