"""One stage of a rehearsal, in a process of its own: `python -m components.rehearsal.trial --stage align --root DIR ...`.

It calls the function that `mmalign stage` calls, without recording anything, and leaves how that ended in `trial-STAGE.json` of the checkout's
state. A training is called twice: the second time reads the checkpoint of the first. MLflow is loaded as in a stage, which counts in the memory
of a stage without ranks.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.checkout import Checkout
from components.engine import watchdog
from components.files import write_json
from components.processes.fault_kinds import fault_kind, sentence_of
from components.processes.slots.taking import slots_taken
from components.stages import STAGE_NAMES, STAGES, TRAINING, load

if TYPE_CHECKING:
    from components.engine.result import StageResult

TRAININGS = tuple(TRAINING)
ROOM = 0.05  # of a limit of address space that a trial leaves: threads and files reserve more in one run than in another


def outcome_file(checkout: Checkout, stage: str) -> Path:
    """How the trial of a stage ended. A trial that a signal ended leaves none."""
    return checkout.state / f"trial-{stage}.json"


def leave_room() -> None:
    """Lower this process's limit of address space, where it has one, by `ROOM`, so that what passes here passes in the run too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (int(soft * (1 - ROOM)), hard))


def load_record(checkout: Checkout) -> None:
    """Open a record as a stage does: the server's client, or a database, here an empty one of the rehearsal."""
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        uri = f"sqlite:///{checkout.state.resolve() / 'record.db'}"
        MlflowClient(uri).search_experiments()


def run(stage: Any, checkout: Checkout) -> dict[str, Any]:
    """Run a stage; its metrics, times and wall seconds, and for a training the seconds of going on from its last checkpoint."""
    settings = checkout.settings()
    function = load(STAGES[stage].function)
    with slots_taken(stage, settings, checkout, partial(print, flush=True)):
        began = time.monotonic()
        result: StageResult = function(settings.for_stage(stage), checkout)
        ended = time.monotonic()
        if stage in TRAININGS:
            resumed: StageResult = function(settings.for_stage(stage), checkout)
            if resumed.times["resumed_from"] != result.metrics["steps"]:
                raise RuntimeError(f"the second start of {stage} did not find the checkpoint of the first")
    return {"metrics": result.metrics, "times": result.times, "seconds": ended - began, "resume_seconds": time.monotonic() - ended}


def main() -> int:
    """Run the stage that is named, and leave its outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", required=True, choices=STAGE_NAMES)
    parser.add_argument("--root", required=True, type=Path, help="the rehearsal's checkout")
    parser.add_argument("--launcher", required=True, type=int, help="pid of the process that this one ends with")
    parser.add_argument("--launcher-started", required=True, type=float, help="when that process was started")
    options = parser.parse_args()
    watchdog.end_with(options.launcher, options.launcher_started)
    leave_room()
    checkout = Checkout(options.root)
    load_record(checkout)
    try:
        outcome: dict[str, Any] = {"kind": "ok", **run(options.stage, checkout)}
    except Exception as error:
        write_json(outcome_file(checkout, options.stage), {"kind": fault_kind(error), "sentence": sentence_of(error)})
        raise
    write_json(outcome_file(checkout, options.stage), outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
