"""How the reward model scores the held-out responses: on its own critiques, on given ones, on none, and over a blanked image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.config import Settings
from components.critique.writing import write_critiques
from components.evaluation.judge import Judge
from components.evaluation.wording import verdict
from components.preferences.record import Query
from components.reward.model import RewardModel
from components.reward.scoring import Judged, score
from components.vlm.generation import Progress
from components.vlm.processing import Preprocessor

Key = tuple[str, int]  # query id, response index
Scores = dict[Key, float]


class OwnCritique(NamedTuple):
    """A critique that the reward model wrote, and the score on it."""

    text: str
    score: float


def read_own(path: Path, queries: Sequence[Query]) -> dict[Key, OwnCritique]:
    """What the critique stage wrote, for the responses of `queries`."""
    wanted = {(query.id, index) for query in queries for index in range(len(query.responses))}
    rows = pq.read_table(path, columns=["id", "response", "critique", "score"]).to_pylist()
    found = {(row["id"], row["response"]): OwnCritique(row["critique"], row["score"]) for row in rows}
    missing = wanted - found.keys()
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(wanted)} responses, such as {min(missing)}: run the critique stage again")
    return {key: found[key] for key in found if key in wanted}


def variants(
    reward: RewardModel, preprocessor: Preprocessor, queries: Sequence[Query], settings: Settings, progress: Progress
) -> dict[str, Scores]:
    """Scores by variant: `gt_critique` (queries whose responses all have a given one), `no_critique`, `blank_image`.

    Over the blanked image the critiques are written again as well: one from the true image would tell what is in it.
    """
    instruction = settings.reward.instruction
    keys = [(query.id, index) for query in queries for index in range(len(query.responses))]
    items = [(query, response) for query in queries for response in query.responses]
    given = [number for number, (query, _) in enumerate(items) if all(r.critique for r in query.responses)]
    blank = blank_critiques(reward, preprocessor, [(query, response.text) for query, response in items], settings, progress)
    judged: dict[str, list[tuple[Key, Judged]]] = {
        "gt_critique": [(keys[n], Judged(items[n][0], items[n][1].text, items[n][1].critique or "")) for n in given],
        "no_critique": [(key, Judged(query, response.text, "")) for key, (query, response) in zip(keys, items, strict=True)],
        "blank_image": [
            (key, Judged(query, response.text, critique)) for key, (query, response), critique in zip(keys, items, blank, strict=True)
        ],
    }
    found: dict[str, Scores] = {}
    for name, rows in judged.items():
        values = score(reward, preprocessor, [item for _, item in rows], instruction=instruction, blank=name == "blank_image")
        found[name] = {key: value for (key, _), value in zip(rows, values, strict=True)}
    return found


def blank_critiques(
    reward: RewardModel, preprocessor: Preprocessor, items: Sequence[tuple[Query, str]], settings: Settings, progress: Progress
) -> list[str]:
    """Critiques over blanked media, in order. Blanking makes inputs alike (one question, one size): each different one is judged once."""
    instruction = settings.reward.instruction
    keys = []
    for query, response in items:
        root = preprocessor.judge_root(query, instruction, blank=True)
        # Small tensors say sizes and grids; of pixels the shape is enough, since all are grey.
        media = [
            (name, tuple(tensor.shape), tuple(tensor.flatten().tolist()) if tensor.dtype == torch.int64 else ())
            for medium in root.media
            for name, tensor in sorted(medium.tensors.items())
        ]
        keys.append((root.input_ids, tuple(media), response))
    distinct = dict(zip(keys, items, strict=True))
    critiques = write_critiques(
        reward.model,
        preprocessor,
        list(distinct.values()),
        instruction=instruction,
        max_new_tokens=settings.critique.max_new_tokens,
        batch_size=settings.critique.batch_size,
        blank=True,
        progress=progress,
    )
    written = dict(zip(distinct, critiques, strict=True))
    return [written[key] for key in keys]


def critique_verdicts(queries: Sequence[Query], own: dict[Key, OwnCritique], judge: Judge) -> tuple[list[bool | None], list[bool | None]]:
    """(verdict read from the own critique, the judge's on the response itself or None without facts), one a response in order."""
    found, truth = [], []
    for query in queries:
        for index, response in enumerate(query.responses):
            found.append(verdict(own[query.id, index].text))
            truth.append(judge.judge(query, response.text).good if judge.knows(query) else None)
    return found, truth


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("response", pa.int32()),
        ("rank", pa.int32()),
        ("own", pa.float64()),
        ("gt_critique", pa.float64()),
        ("no_critique", pa.float64()),
        ("blank_image", pa.float64()),
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
            "verdict": found,
            "right": truth,
        }
        for (query, index), found, truth in zip(numbered, *verdicts, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
