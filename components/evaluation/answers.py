"""Greedy answers of a policy to the held-out queries, with the judge's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.config import EvaluateSettings
from components.evaluation.judge import Judge, Verdict
from components.preferences.record import Query
from components.vlm.generation import Progress, generate
from components.vlm.processing import Preprocessor

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("policy", pa.string()),
        ("category", pa.string()),
        ("prompt", pa.string()),
        ("media", pa.string()),
        ("answer", pa.string()),
        ("right", pa.bool_()),
        ("safe", pa.bool_()),
        ("refused", pa.bool_()),
        ("hallucinated", pa.bool_()),
        ("degenerate", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Answered:
    """One policy's answers and verdicts, one a query, in the queries' order."""

    policy: str
    answers: list[str]
    verdicts: list[Verdict]


def answer_queries(
    policy: str,
    model: Any,
    preprocessor: Preprocessor,
    queries: Sequence[Query],
    judge: Judge,
    settings: EvaluateSettings,
    progress: Progress,
) -> Answered:
    """Answer every query greedily and judge the answers. An answer that fills all its tokens never ended."""
    tokens = generate(
        model,
        [preprocessor.policy_root(query) for query in queries],
        [[] for _ in queries],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        end_id=preprocessor.end_id,
        progress=progress,
    )
    texts = [str(preprocessor.tokenizer.decode(ids, skip_special_tokens=True)) for ids in tokens]
    verdicts = [
        judge.judge(query, text, ended=len(ids) < settings.max_new_tokens) for query, text, ids in zip(queries, texts, tokens, strict=True)
    ]
    return Answered(policy, texts, verdicts)


def write_answers(path: Path, queries: Sequence[Query], policies: Sequence[Answered]) -> None:
    """Write one row an answer, policy by policy in the queries' order."""
    rows = [
        {
            "id": query.id,
            "policy": answered.policy,
            "category": query.category,
            "prompt": query.prompt,
            "media": query.media,
            "answer": answer,
            "right": verdict.right,
            "safe": verdict.safe,
            "refused": verdict.refused,
            "hallucinated": verdict.hallucinated,
            "degenerate": verdict.degenerate,
        }
        for answered in policies
        for query, answer, verdict in zip(queries, answered.answers, answered.verdicts, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
