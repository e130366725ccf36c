"""Stage `reference`: each response's log-prob under the base model, once, before alignment.

Reads  artifacts/validate/{train,heldout}/queries.parquet and the base model.
Writes artifacts/reference/{train,heldout}.parquet: id, response, log_prob (sum over the response's tokens and its end, fp32), tokens; with
       `alignment.image_weight` train.parquet has log_prob_blank, too, under gray media of the same size (null for queries without media).

Values are kept in .mmalign/cache/reference/ (components/alignment/reference_store.py), so that 100 new rows cost 100 rows. Batches are
planned over all queries, known or not: a killed run, and one on more ranks, computes the same bits. With new rows beside them, queries that
are computed anew lie in other batches and may differ in the last bits; those that are in the store keep theirs.
`reference.ranks` processes share the batches. Alone: `mmalign stage reference`.
"""

from __future__ import annotations

import torch

from components.alignment.reference_table import write_log_probs
from components.alignment.reference_task import SPLITS, build
from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.inference import Launch, run_tasks
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.families.digests import model_digest
from components.stages import INFERENCE_TASKS


def run(settings: Settings, checkout: Checkout, _recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Compute, or take from the store, the reference log-probs of all responses of both splits."""
    torch.set_num_threads(settings.reference.threads)
    tasks = build(settings, checkout)
    report = run_tasks(tasks, Launch(INFERENCE_TASKS["reference"], "reference"), settings, checkout)
    result = StageResult(
        metrics={}, times=report.times, digests={"reference.model_digest": model_digest(checkout.root / settings.model.base)}
    )
    blank = {query.id: values for task in tasks if task.blank for query, values in zip(task.queries, task.log_probs(), strict=True)}
    for split, task in zip(SPLITS, tasks[: len(SPLITS)], strict=True):
        log_probs = task.log_probs()
        contrast = blank if split == "train" and settings.alignment.image_weight else None
        write_log_probs(checkout.reference(split), task.queries, log_probs, contrast)
        values = [value for query in log_probs for value in query]
        result.metrics[f"{split}.responses"] = len(values)
        result.metrics[f"{split}.tokens"] = sum(tokens for _, tokens in values)
        result.metrics[f"{split}.log_prob_a_token"] = sum(p for p, _ in values) / max(1, sum(tokens for _, tokens in values))
    result.times["queries_computed"] = sum(report.items)
    result.times["queries_cached"] = sum(len(task.queries) for task in tasks) - sum(report.items)
    tasks[0].store.compact()
    return result
