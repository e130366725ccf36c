"""One rank, started by torchrun for a training or an inference stage: `python -m components.engine.worker --stage align ...`.

From top to bottom: end with the launcher, read the settings, then train or compute; a failure is left for the launcher in a file.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from pathlib import Path

from components import stages
from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.engine import watchdog
from components.engine.launcher import ARGUMENTS, SETTINGS, leave_fault
from components.files import read_json, write_json

TRAINING_STAGES = ("reward", "align")


def main() -> None:
    """Run a rank; a failure is left in `fault-RANK.json` of the scratch folder."""
    options = _options()
    watchdog.end_with(options.launcher, options.launcher_started)
    gc.set_threshold(100_000, 50, 100)  # imports make objects that live on: Python's default costs a rank a second of its start
    # DeepSpeed's autotuner, which nobody calls, imports MLflow where it is installed: 2 s of processor time a rank.
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's own way to have an import fail
    rank = int(os.environ["RANK"])
    try:
        settings = parse_settings(read_json(options.scratch / SETTINGS), str(options.scratch / SETTINGS), options.stage)
        (train if options.stage in TRAINING_STAGES else infer)(options, settings)
    except BaseException as error:
        leave_fault(options.scratch, rank, error)
        raise


def train(options: argparse.Namespace, settings: Settings) -> None:
    """Set torch up, and call what the stage trains with: components/alignment/stage.py::train, for one."""
    began = time.perf_counter()
    import torch

    torch.set_num_threads(settings.training.threads)
    torch.use_deterministic_algorithms(settings.training.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and only hides reads of memory that nobody wrote

    from components.engine.task import TrainingRank
    from components.processes import heartbeat

    heartbeat.open_heartbeat(options.scratch, in_step=True, busy_waits=torch.cuda.is_available())
    stages.load(options.factory)(TrainingRank(settings, Checkout(options.root), options.stage, options.scratch, options.out, began))


def infer(options: argparse.Namespace, settings: Settings) -> None:
    """Compute this rank's share of every task, and write what the launcher reads."""
    began = time.monotonic()
    import torch

    from components.engine.inference import compute_shares
    from components.engine.ranks import inference_section, ranks_of_process
    from components.processes import heartbeat

    torch.set_num_threads(inference_section(settings, options.stage).threads)
    ranks = ranks_of_process(settings, options.stage)
    heartbeat.open_heartbeat(options.scratch, in_step=ranks.lockstep, busy_waits=torch.cuda.is_available())
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    ranks.join()
    with ranks.together():
        tasks = stages.load(options.factory)(settings, Checkout(options.root), read_json(options.scratch / ARGUMENTS))
    startup = time.monotonic() - began
    end = compute_shares(tasks, ranks, options.scratch)
    write_json(options.scratch / f"finished-{ranks.rank}.json", end | {"startup_seconds": startup})
    ranks.leave()
    heartbeat.end()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--factory", required=True, help="module:function: of a training what each rank runs, of inference what builds the tasks"
    )
    parser.add_argument("--stage", required=True, choices=[*TRAINING_STAGES, "critique", "reference", "evaluate"])
    parser.add_argument("--root", type=Path, required=True, help="root of the checkout")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of settings and arguments, and of all that ranks leave")
    parser.add_argument("--out", type=Path, help="where a trained model goes")
    parser.add_argument("--launcher", type=int, required=True, help="pid of the process that this one ends with")
    parser.add_argument("--launcher-started", type=float, required=True, help="when that process was started")
    return parser.parse_args()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the work is written and the ranks have parted: libraries that tear their threads down have aborted a rank here
