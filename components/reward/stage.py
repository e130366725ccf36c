"""Stage `reward`: trains the critique-based reward model.

Reads  artifacts/validate/train, artifacts/validate/expanded.parquet, the base model, infra/deepspeed.
Writes artifacts/reward/model (safetensors, processor files, score head).
Alone: `mmalign stage reward`. Killed and run again, it goes on from the last committed checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine.checkpoints import training_key
from components.engine.curves import last_metrics
from components.engine.launch import launch
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.reward.critique_source import with_source
from components.stages import TRAINING

if TYPE_CHECKING:
    from components.engine.task import TrainingRank


def run(settings: Settings, checkout: Checkout, recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Train under the launcher and report the last metrics of the run."""
    settings = with_source(settings, checkout)
    key = training_key(
        checkout,
        "reward",
        settings=[
            *(section.model_dump_json() for section in (settings.model, settings.training, settings.reward)),
            settings.critique.model_dump_json(include={"max_new_tokens", "batch_size"}),  # of its own critiques, in mixed training
        ],
        inputs=[
            IN_CHECKOUT.queries("train").parent,
            *([IN_CHECKOUT.expanded] if settings.reward.critique_source == "expanded" and checkout.expanded.is_file() else []),
            settings.model.base,
            IN_CHECKOUT.deepspeed,
        ],
    )
    outcome = launch(TRAINING["reward"], settings, "reward", checkout, key, checkout.reward_model, recorder)
    recorder.artifact(outcome.curves)
    return StageResult(
        metrics={"steps": outcome.steps, **last_metrics(outcome.curves, "loss/pair", "loss/critique", "accuracy", "margin")},
        times={
            "training_seconds": outcome.seconds,
            "startup_seconds": outcome.startup_seconds,
            "resumed_from": outcome.resumed_from,
            **outcome.throughput,
        },
        digests={"weights": outcome.weights, "critique_source": settings.reward.critique_source},
    )


def train(rank: TrainingRank) -> None:
    """What each rank runs: the training loop, components/engine/loop.py, on this stage's task."""
    from components.engine import loop
    from components.reward.task import RewardTask

    loop.train(RewardTask, rank)
