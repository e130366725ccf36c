"""One rank, started by torchrun for a training or an inference stage: `python -m components.engine.worker --stage align ...`.

From top to bottom: end with the launcher, read the settings, then train or compute; a failure is left for the launcher in a file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from components import stages
from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.engine import watchdog
from components.engine.launcher import ARGUMENTS, SETTINGS, leave_fault
from components.errors import StageFault
from components.files import read_json, write_json

if TYPE_CHECKING:
    from components.config.optimization import OptimizationSettings
    from components.engine.checkpoints import Checkpoint
    from components.engine.ranks import RankContext
    from components.engine.task import TrainingTask

TRAINING_STAGES = ("reward", "align")


def main() -> None:
    """Run a rank; a failure is left in `fault-RANK.json` of the scratch folder."""
    options = _options()
    watchdog.end_with(options.launcher, options.launcher_started)
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
    """Train from the newest checkpoint on, export the model, and write what the launcher reads."""
    began = time.perf_counter()
    import torch

    torch.set_num_threads(settings.training.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and only hides reads of memory that nobody wrote

    from torch import distributed

    from components.engine import checkpoints, health, partitions
    from components.engine.backends import set_up_backend
    from components.engine.loop import Loop
    from components.engine.schedule import seed_everything
    from components.engine.throughput import peak_memory_gb, summarise

    backend = set_up_backend(settings.training, Checkout(options.root))
    context = backend.context
    resumed = _resume(options.scratch, context)
    seed_everything(settings.training.seed, 0)
    task: TrainingTask = stages.load(options.factory)(settings, Checkout(options.root))
    loop = Loop(task, backend, settings.training, section_of(settings, options.stage), options.scratch, resumed)
    if context.rank == 0:
        _announce(loop.first_step, loop.schedule.total, settings, context, time.perf_counter() - began)
    trained = time.perf_counter()
    loop.run()
    seconds = time.perf_counter() - trained
    measured = context.gather((loop.meter, peak_memory_gb()))
    digest = health.check_ranks_agree(task.model)
    with partitions.whole_on_rank_0(task.model):
        if context.rank == 0:
            export(task, options.out)
    if context.rank == 0:
        throughput = summarise(*zip(*measured, strict=True))
        finished = {
            "steps": loop.schedule.total,
            "resumed_from": loop.first_step,
            "seconds": seconds,
            "startup_seconds": trained - began,
            "weights": digest,
            "throughput": {name: value for name, value in throughput.items() if value is not None},
        }
        write_json(options.scratch / checkpoints.FINISHED, finished)
    context.barrier()
    distributed.destroy_process_group()


def infer(options: argparse.Namespace, settings: Settings) -> None:
    """Compute this rank's share of every task, and write what the launcher reads."""
    began = time.monotonic()
    import torch

    from components.engine.inference import compute_shares
    from components.engine.ranks import inference_section, ranks_of_process

    torch.set_num_threads(inference_section(settings, options.stage).threads)
    ranks = ranks_of_process(settings, options.stage)
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    ranks.join()
    tasks = stages.load(options.factory)(settings, Checkout(options.root), read_json(options.scratch / ARGUMENTS))
    startup = time.monotonic() - began
    end = compute_shares(tasks, ranks, options.scratch)
    write_json(options.scratch / f"finished-{ranks.rank}.json", end | {"startup_seconds": startup})
    ranks.leave()


def export(task: TrainingTask, out: Path) -> None:
    """Write the model beside `out`, then move it there, so that `out` is a whole model or none."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    task.export(partial)
    pickles = sorted(path.name for path in partial.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle"})
    if pickles:
        raise StageFault(f"the export holds pickles ({', '.join(pickles)}): write it by save_pretrained as safetensors")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def section_of(settings: Settings, stage: str) -> OptimizationSettings:
    """The section of a training stage, which holds its learning rate, warm-up and cap of steps."""
    return settings.reward if stage == "reward" else settings.alignment


def _resume(scratch: Path, context: RankContext) -> Checkpoint | None:
    """The checkpoint to go on from, chosen by rank 0. Raises StageFault where it was written by another number of ranks."""
    from components.engine import checkpoints

    checkpoint: Checkpoint | None = context.gather(checkpoints.newest(scratch, _log) if context.rank == 0 else None)[0]
    if checkpoint is not None and checkpoint.world != context.world:
        raise StageFault(f"{checkpoint.folder} was written by {checkpoint.world} ranks, not {context.world}: remove it to start again")
    return checkpoint


def _announce(first_step: int, total: int, settings: Settings, context: RankContext, seconds: float) -> None:
    training, device = settings.training, context.device.type
    engine = f"DeepSpeed ZeRO-{training.zero_stage}" if training.engine == "deepspeed" else "DDP"
    what = f"resumed from step {first_step} of {total}" if first_step else f"starting {total} steps"
    _log(f"{what}: {engine}, {context.world} ranks on {device}, {training.precision}, ready in {seconds:.0f} s")
    if training.offload != "none" and device == "cpu":
        _log(f"training.offload {training.offload} moves nothing here: on a CPU all of it is in its memory already")


def _log(sentence: str) -> None:
    sys.stdout.write(f"training: {sentence}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factory", required=True, help="module:function that builds the task from (settings, root), or the tasks")
    parser.add_argument("--stage", required=True, choices=[*TRAINING_STAGES, "critique", "reference", "evaluate"])
    parser.add_argument("--root", type=Path, required=True, help="root of the checkout")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of settings and arguments, and of all that ranks leave")
    parser.add_argument("--out", type=Path, help="where a trained model goes")
    parser.add_argument("--launcher", type=int, required=True, help="pid of the process that this one ends with")
    parser.add_argument("--launcher-started", type=float, required=True, help="when that process was started")
    return parser.parse_args()


if __name__ == "__main__":
    main()
