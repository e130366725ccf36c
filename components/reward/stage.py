"""Stage `reward`: trains the critique-based reward model.

Reads  artifacts/validate/train, the base model, infra/deepspeed.
Writes artifacts/reward/model (safetensors, processor files, score head).
Alone: `mmalign stage reward`. Killed and run again, it goes on from the last committed checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from components.config.settings import Settings
from components.engine.figures import last_figures
from components.engine.launch import launch
from components.engine.result import StageResult
from components.engine.scratch_key import training_key


def run(settings: Settings, root: Path) -> StageResult:
    """Train under the launcher and report the last figures of the run."""
    key = training_key(
        root,
        "reward",
        settings=[section.model_dump_json() for section in (settings.model, settings.training, settings.reward, settings.critique)],
        inputs=[Path("artifacts/validate/train"), settings.model.base, Path("infra/deepspeed")],
    )
    outcome = launch("components.reward.task:build", settings, "reward", root, key, root / "artifacts/reward/model")
    return StageResult(
        metrics={"steps": outcome.steps, **last_figures(outcome.curves, "loss/pair", "loss/critique", "accuracy", "margin")},
        times={
            "training_seconds": outcome.seconds,
            "startup_seconds": outcome.startup_seconds,
            "resumed_from": outcome.resumed_from,
            **outcome.throughput,
        },
        params={"weights": outcome.weights},
        curves=outcome.curves,
    )
