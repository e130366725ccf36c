"""Runs a training task in `training.ranks` processes under torchrun, shows its progress, and hands back what it left.

How processes are started, watched and asked for their reasons is in components.engine.launcher.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.optimization import optimization_of
from components.config.settings import Settings
from components.engine import checkpoints, ops
from components.engine.curves import CURVES, PLAN, Follower
from components.engine.launcher import SETTINGS, fault_of, rank_environment, run_ranks
from components.engine.recorder import NullRecorder, Recorder
from components.files import read_json, write_json
from components.processes.stalls import Stalls


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished run left: its curves, how long its steps took and its start before them, and how far it had come before.

    `throughput` holds what `components.engine.throughput.summarise` gives of the steps of this process, where it was measured.
    """

    curves: Path
    seconds: float
    startup_seconds: float
    steps: int
    resumed_from: int
    weights: str
    throughput: dict[str, float] = field(default_factory=dict)


def launch(
    rank_function: str,
    settings: Settings,
    stage: str,
    checkout: Checkout,
    key: str,
    out: Path,
    recorder: Recorder = NullRecorder(),  # noqa: B008 -- it has no state
) -> TrainingOutcome:
    """Run `rank_function` ("module:function", see components/stages.py) in every rank, which trains and writes the model to `out`.

    `key` is a digest of everything that the result depends on beside `settings.training` and the stage's own section; a killed run with
    the same key goes on where it was. `recorder` gets the points of the curves, each once, while training runs. Raises UserError or
    StageFault with the first failing rank's reason.
    """
    section = optimization_of(settings, stage)
    scratch = checkpoints.scratch_folder(checkout, stage, key, settings.training, section)
    checkpoints.remove_finished(checkout, stage, but=scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    for stale in [*scratch.glob("fault-*.json"), scratch / checkpoints.FINISHED, scratch / PLAN]:
        stale.unlink(missing_ok=True)
    write_json(scratch / SETTINGS, settings.model_dump(mode="json", by_alias=True))
    environment = rank_environment(checkout, settings.training.threads)
    if settings.training.engine == "deepspeed":
        ops.ensure_built(environment)
    arguments = ["--factory", rank_function, "--stage", stage, "--root", str(checkout.root.resolve())]
    arguments += ["--scratch", str(scratch.resolve()), "--out", str(out.resolve())]
    follower = Follower(scratch, stage, recorder=recorder)
    try:
        stalls = Stalls(scratch, settings.training.ranks)
        code = run_ranks(arguments, ranks=settings.training.ranks, environment=environment, poll=follower.poll, stalls=stalls)
        follower.poll(last=True)
    finally:
        follower.end()
    if code != 0 or not (scratch / checkpoints.FINISHED).is_file():
        raise fault_of(scratch, stage, code)
    finished: dict[str, Any] = read_json(scratch / checkpoints.FINISHED)
    return TrainingOutcome(
        scratch / CURVES,
        finished["seconds"],
        finished["startup_seconds"],
        finished["steps"],
        finished["resumed_from"],
        finished["weights"],
        finished["throughput"],
    )
