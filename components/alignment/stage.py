"""Stage `align`: MM-DPO on preference trees, with a beta or a weight for every pair.

Reads  artifacts/validate/train, artifacts/critique/train.parquet, artifacts/reference/train.parquet, the base model, infra/deepspeed.
Writes artifacts/align/model, artifacts/align/pairs.parquet (every pair with margin, beta, weight and log-probs under policy and reference).
Alone: `mmalign stage align`. Killed and run again, it goes on from the last committed checkpoint.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from components.alignment.betas import (
    BETA_FLOOR,
    Array,
    beta_summary,
    margin_summary,
    uses_margins,
    varies,
    weight_summary,
)
from components.alignment.diagnosis import outcome_of, warnings_of
from components.alignment.pairs import PairTable, pair_ids, write_pairs
from components.alignment.prepared_pairs import prepared_pairs
from components.alignment.reference_table import read_log_probs
from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine.checkpoints import training_key
from components.engine.curves import last_metrics
from components.engine.launch import launch
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.errors import StageFault
from components.preferences.query_table import open_queries
from components.stages import INFERENCE_TASKS, TRAINING

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings
    from components.engine.task import TrainingRank

OVERFIT_RATIO = 1.5  # margins of trained-on queries this many times those of the calibration part deserve a warning
FEW_PAIRS, EVEN_PAIRS = 0.5, 0.99  # effective shares of pairs under madpo past which its weights deserve a warning


def run(settings: Settings, checkout: Checkout, recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Build the pairs, train under the launcher, and write down what was done to each pair.

    Raises StageFault where the policy collapsed, and removes its model: nothing looks finished after it.
    """
    settings = seeded(settings)
    queries = open_queries(checkout, "train")
    pairs = prepared_pairs(settings, checkout, queries).pairs
    metrics = describe(pairs, settings)
    key = training_key(
        checkout,
        "align",
        settings=[
            *(section.model_dump_json() for section in (settings.model, settings.training, settings.alignment)),
            str(settings.reward.calibration_share),
            settings.features.dtype if settings.features.cache else "live",
        ],
        inputs=[
            IN_CHECKOUT.queries("train").parent,
            IN_CHECKOUT.critiques("train"),
            IN_CHECKOUT.reference("train"),
            settings.model.base,
            IN_CHECKOUT.deepspeed,
        ],
    )
    outcome = launch(TRAINING["align"], settings, "align", checkout, key, checkout.policy, recorder)
    reference = read_log_probs(checkout.reference("train"))
    policy = final_log_probs(settings, checkout, pair_ids(pairs, queries))
    signs = outcome_of(pairs, queries, policy, reference)
    try:
        for sentence in warnings_of(signs):
            _warn(sentence)
    except StageFault:
        shutil.rmtree(checkout.policy)
        raise
    write_pairs(checkout.artifact("align", "pairs.parquet"), queries, pairs, policy, {key: value[0] for key, value in reference.items()})
    steps = [json.loads(line) for line in outcome.curves.read_text(encoding="utf-8").splitlines()]
    metrics |= {**signs.metrics(), **step_betas(steps, settings.alignment)}
    training_metrics = last_metrics(
        outcome.curves, "loss/preference", "loss/sft", "rewards/accuracy", "rewards/margin", "log_probs/chosen", "log_probs/rejected"
    )
    recorder.artifact(outcome.curves)
    return StageResult(
        metrics={"steps": outcome.steps, **metrics, **training_metrics},
        times={
            "training_seconds": outcome.seconds,
            "startup_seconds": outcome.startup_seconds,
            "resumed_from": outcome.resumed_from,
            **outcome.throughput,
        },
        digests={"weights": outcome.weights},
    )


def seeded(settings: Settings) -> Settings:
    """The settings with `alignment.seed` as the training's seed, where it is set."""
    if settings.alignment.seed is None:
        return settings
    return settings.model_copy(update={"training": settings.training.model_copy(update={"seed": settings.alignment.seed})})


def describe(pairs: PairTable, settings: Settings) -> dict[str, float | int | None]:
    """Metrics of margins, betas and weights; warns where they make little of the method, or come from an overfitted reward model."""
    alignment = settings.alignment
    metrics: dict[str, float | int | None] = {
        "pairs": len(pairs.beta),
        "pairs_without_margin": int(np.isnan(pairs.margin).sum()),
        "margin_divisor": pairs.scale.divisor,
        **beta_summary(pairs.beta, alignment),
        **margin_summary(pairs.margin[~pairs.calibration], "margin"),
    }
    if varies(alignment):
        metrics |= _histogram("beta", pairs.beta, alignment.beta, alignment.beta * (1 + alignment.beta_weight))
        _warn_of_ends(metrics)
    if alignment.beta_schedule == "madpo":
        metrics |= {**weight_summary(pairs.weight), **_histogram("weight", pairs.weight, 0.0, float(pairs.weight.max()))}
        _warn_of_weights(metrics)
    if pairs.calibration.any():
        metrics |= margin_summary(pairs.margin[pairs.calibration], "margin.calibration")
        seen, unseen = metrics["margin.median"], metrics["margin.calibration.median"]
        if uses_margins(alignment) and seen is not None and unseen is not None and seen > OVERFIT_RATIO * unseen:
            _warn(
                f"margins of queries that the reward model was trained on (median {seen:.2f}) are larger than those of the calibration "
                f"part ({unseen:.2f}): it has overfitted, so alignment takes it to be surer of those pairs than it is"
            )
    return metrics


def step_betas(steps: list[dict[str, float]], settings: AlignmentSettings) -> dict[str, float | None]:
    """Under `beta_dpo`, the least, mean and greatest beta of the steps, in place of the pairs'; warns where most lie at the floor."""
    if settings.beta_schedule != "beta_dpo":
        return {}
    betas = np.array([step["beta/mean"] for step in steps])
    share = float(np.mean(betas <= BETA_FLOOR * settings.beta * (1 + 1e-9)))
    if share > 0.5:
        _warn(f"{share:.0%} of the steps have the least beta that there is, so they learned next to nothing; lower alignment.beta_weight")
    return {
        "beta.min": float(betas.min()),
        "beta.mean": float(betas.mean()),
        "beta.max": float(betas.max()),
        "beta.share_of_steps_at_floor": share,
    }


def _histogram(name: str, values: Array, low: float, high: float) -> dict[str, int]:
    counts, edges = np.histogram(values, bins=10, range=(low, high))
    return {f"{name}.histogram.{edge:.4f}": int(count) for edge, count in zip(edges[:-1], counts, strict=True)}


def _warn_of_ends(metrics: Mapping[str, float | int | None]) -> None:
    cures = {"cap": "set alignment.margins to standardized or lower alignment.beta_scale", "floor": "raise alignment.beta_scale"}
    for end, cure in cures.items():
        share = metrics[f"beta.share_at_{end}"]
        if share is not None and share > 0.5:
            _warn(f"{share:.0%} of the pairs have a beta at the {end} of its range, so this is close to DPO with a constant beta; {cure}")


def _warn_of_weights(metrics: Mapping[str, float | int | None]) -> None:
    share = metrics["weight.effective_share"]
    assert share is not None
    if share < FEW_PAIRS:
        _warn(
            f"the pairs' weights leave {share:.0%} of them in effect, those that the reward model is least sure of or disagrees with; "
            "set alignment.margins to standardized or lower alignment.beta_scale"
        )
    elif share > EVEN_PAIRS:
        _warn("all pairs have nearly the same weight, so this is close to DPO with a constant beta; raise alignment.beta_scale")


def final_log_probs(settings: Settings, checkout: Checkout, ids: Iterable[str]) -> dict[tuple[str, int], float]:
    """Log-prob sums under the model that the stage has just written, on the reference stage's ranks: those of all responses of
    `alignment.diagnosed_queries` of the training queries `ids`."""
    import torch

    from components.alignment.policy_task import build, diagnosed
    from components.engine.inference import Launch, run_tasks

    torch.set_num_threads(settings.reference.threads)
    chosen = diagnosed(ids, settings.alignment.diagnosed_queries)
    tasks = build(settings, checkout, chosen)
    run_tasks(tasks, Launch(INFERENCE_TASKS["policy_log_probs"], "reference", chosen, name="policy"), settings, checkout)
    (task,) = tasks
    sums = {
        (query.id, number): log_prob
        for query, values in zip(task.queries, task.log_probs(), strict=True)
        for number, (log_prob, _) in enumerate(values)
    }
    task.store.compact()
    return sums


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def train(rank: TrainingRank) -> None:
    """What each rank runs: the training loop, components/engine/loop.py, on this stage's task."""
    from components.alignment.task import AlignmentTask
    from components.engine import loop

    loop.train(AlignmentTask, rank)
