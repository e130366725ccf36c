"""Stage `critique`: the reward model writes a critique of every response and then scores it (paper section 3, inference).

Reads  artifacts/validate/{train,heldout}/queries.parquet, artifacts/reward/model.
Writes artifacts/critique/{train,heldout}.parquet: id, response (index in models_output, from 0), critique, score. A model that was trained
       without critiques scores alone: no text is generated, and `critique` is null.

Each batch is kept in .mmalign/cache/critiques.sqlite as it is done, under a key of everything that it depends on: a killed stage goes on
where it was, with the same batches and so the same bits. `critique.ranks` processes share them. Alone: `mmalign stage critique`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.checkout import Checkout
from components.config.settings import Settings
from components.critique.task import SPLITS, build
from components.engine.inference import Launch, run_tasks
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.preferences.record import Query
from components.reward.judging import CritiqueScore
from components.stages import INFERENCE_TASKS


def run(settings: Settings, checkout: Checkout, _recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Write critiques and scores for all responses of both splits."""
    torch.set_num_threads(settings.critique.threads)
    tasks = build(settings, checkout)
    report = run_tasks(tasks, Launch(INFERENCE_TASKS["critique"], "critique"), settings, checkout)
    result = StageResult(metrics={}, times=report.times)
    for split, task, computed in zip(SPLITS, tasks, report.units, strict=True):
        judgements = task.judgements()
        write_judgements(checkout.critiques(split), task.queries, judgements)
        scores = np.array([value for query in judgements for _, value in query])
        correct = [o[w][1] > o[l][1] for q, o in zip(task.queries, judgements, strict=True) for w, l in q.pairs()]  # noqa: E741 - loser
        result.metrics[f"{split}.responses"] = len(scores)
        result.metrics[f"{split}.score_mean"] = float(scores.mean()) if len(scores) else None
        result.metrics[f"{split}.score_std"] = float(scores.std()) if len(scores) else None
        result.metrics[f"{split}.pair_accuracy"] = float(np.mean(correct)) if correct else None
        lengths = [len(text.split()) for query in judgements for text, _ in query if text is not None]
        result.metrics[f"{split}.critique_words"] = float(np.mean(lengths)) if lengths else None
        result.times[f"{split}.responses_computed"] = computed
        if task.served is not None:
            result.times.update(task.served.times(split))
    return result


def write_judgements(path: Path, queries: Sequence[Query], judgements: Sequence[Sequence[CritiqueScore]]) -> None:
    """Write one row a response."""
    rows = [
        {"id": query.id, "response": number, "critique": text, "score": value}
        for query, values in zip(queries, judgements, strict=True)
        for number, (text, value) in enumerate(values)
    ]
    schema = pa.schema([("id", pa.string()), ("response", pa.int32()), ("critique", pa.string()), ("score", pa.float64())])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
