"""What a rank of a training prints when it starts, and what it leaves when its steps are taken: the model, and a file for the launcher."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from torch import distributed

from components.engine import checkpoints, health, partitions
from components.engine.throughput import peak_memory_gb, summarise
from components.errors import StageFault
from components.files import write_json
from components.processes import heartbeat

if TYPE_CHECKING:
    from components.engine.loop import Loop
    from components.engine.task import TrainingRank, TrainingTask


def announce(loop: Loop, rank: TrainingRank) -> None:
    """Say on rank 0 what is about to run, and how long the start took."""
    if loop.rank != 0:
        return
    training, device = loop.training, loop.context.device.type
    engine = f"DeepSpeed ZeRO-{training.zero_stage}" if training.engine == "deepspeed" else "DDP"
    total = loop.schedule.total
    what = f"resumed from step {loop.first_step} of {total}" if loop.first_step else f"starting {total} steps"
    seconds = time.perf_counter() - rank.began
    log_line(f"{what}: {engine}, {loop.world} ranks on {device}, {training.precision}, ready in {seconds:.0f} s")
    if training.offload != "none" and device == "cpu":
        log_line(f"training.offload {training.offload} moves nothing here: on a CPU all of it is in its memory already")


def finish(loop: Loop, rank: TrainingRank, *, startup_seconds: float, seconds: float) -> None:
    """Check that ranks hold equal weights, export the model, write what the launcher reads, and part."""
    heartbeat.enter("the export")
    measured = loop.context.gather((loop.meter, peak_memory_gb()))
    digest = health.check_ranks_agree(loop.task.model)
    with partitions.whole_on_rank_0(loop.task.model):
        if loop.rank == 0:
            with heartbeat.work("writing the model"):
                export(loop.task, rank.out)
    if loop.rank == 0:
        throughput = summarise(*zip(*measured, strict=True))
        finished = {
            "steps": loop.schedule.total,
            "resumed_from": loop.first_step,
            "seconds": seconds,
            "startup_seconds": startup_seconds,
            "weights": digest,
            "throughput": {name: value for name, value in throughput.items() if value is not None},
        }
        write_json(rank.scratch / checkpoints.FINISHED, finished)
    loop.context.barrier()
    heartbeat.end()
    distributed.destroy_process_group()


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


def log_line(sentence: str) -> None:
    """Write a line to the stage's log."""
    sys.stdout.write(f"training: {sentence}\n")
    sys.stdout.flush()
