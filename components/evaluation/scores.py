"""How the reward model scores the held-out responses: on its own critiques, on given ones, on none, and over a blanked image.

A model that was trained without critiques has no own ones: `own` are its scores of the responses alone, and so is `no_critique`. Beside them
stands the text-only baseline, which reads the responses alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluation.tasks import with_critiques
from components.evaluation.verdict import Judge
from components.evaluation.wording import verdict
from components.preferences.record import Query
from components.reward.judging import CritiqueScore

Key = tuple[str, int]  # query id, response index
Scores = dict[Key, float]


class OwnCritique(NamedTuple):
    """A critique that the reward model wrote, and the score on it; no text by a model without critiques, which scores the response alone."""

    text: str | None
    score: float


def read_own(path: Path, queries: Sequence[Query]) -> dict[Key, OwnCritique]:
    """What the critique stage wrote, for the responses of `queries`."""
    wanted = {(query.id, index) for query in queries for index in range(len(query.responses))}
    rows = pq.read_table(path, columns=["id", "response", "critique", "score"]).to_pylist()
    critiques = {(row["id"], row["response"]): OwnCritique(row["critique"], row["score"]) for row in rows}
    missing = wanted - critiques.keys()
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(wanted)} responses, such as {min(missing)}: run the critique stage again")
    return {key: critiques[key] for key in critiques if key in wanted}


def variants(
    queries: Sequence[Query], blank: Sequence[CritiqueScore], given_scores: Sequence[float], bare: Sequence[float]
) -> dict[str, Scores]:
    """Scores by variant: `gt_critique` (queries whose responses all have a given one), `no_critique`, `blank_image`.

    Over the blanked image the critiques are written again as well: one from the true image would tell what is in it.
    """
    keys = [(query.id, index) for query in queries for index in range(len(query.responses))]
    with_given = [(query.id, index) for query in with_critiques(queries) for index in range(len(query.responses))]
    return {
        "gt_critique": dict(zip(with_given, given_scores, strict=True)),
        "no_critique": dict(zip(keys, bare, strict=True)),
        "blank_image": {key: value for key, (_, value) in zip(keys, blank, strict=True)},
    }


def variants_uncritiqued(queries: Sequence[Query], blank: Sequence[CritiqueScore], own: Scores) -> dict[str, Scores]:
    """Scores by variant of a model without critiques: on given ones it has none."""
    keys = [(query.id, index) for query in queries for index in range(len(query.responses))]
    return {"gt_critique": {}, "no_critique": own, "blank_image": {key: value for key, (_, value) in zip(keys, blank, strict=True)}}


def critique_verdicts(queries: Sequence[Query], own: dict[Key, OwnCritique], judge: Judge) -> tuple[list[bool | None], list[bool | None]]:
    """(verdict read from the own critique, the judge's on the response itself or None without facts), one a response in order."""
    from_critiques, from_judge = [], []
    for query in queries:
        for index, response in enumerate(query.responses):
            text = own[query.id, index].text
            from_critiques.append(None if text is None else verdict(text))
            from_judge.append(judge.judge(query, response.text).good if judge.knows(query) else None)
    return from_critiques, from_judge


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("response", pa.int32()),
        ("rank", pa.int32()),
        ("own", pa.float64()),
        ("gt_critique", pa.float64()),
        ("no_critique", pa.float64()),
        ("blank_image", pa.float64()),
        ("text_only", pa.float64()),
        ("verdict", pa.bool_()),
        ("right", pa.bool_()),
    ]
)


def write_scores(
    path: Path,
    queries: Sequence[Query],
    own: dict[Key, OwnCritique],
    scores: dict[str, Scores],
    verdicts: tuple[list[bool | None], list[bool | None]],
) -> None:
    """Write one row a response: its rank, its score in every variant, the own critique's verdict and the judge's (`right`)."""
    numbered = [(query, index) for query in queries for index in range(len(query.responses))]
    rows = [
        {
            "id": query.id,
            "response": index,
            "rank": query.responses[index].rank,
            "own": own[query.id, index].score,
            **{name: values.get((query.id, index)) for name, values in scores.items()},
            "verdict": from_critique,
            "right": from_judge,
        }
        for (query, index), from_critique, from_judge in zip(numbered, *verdicts, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
