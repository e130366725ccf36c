"""One rank of a training run, started by torchrun: `python -m components.engine.worker --factory components.alignment.task:build ...`.

From top to bottom: end with the launcher, set up torch.distributed, build the task, resume, train, export, and say how it went in a file.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config.settings import Settings, parse_settings
from components.engine import watchdog
from components.engine.launcher import leave_fault
from components.errors import StageFault
from components.files import read_json, write_json

if TYPE_CHECKING:
    from components.config.optimization import OptimizationSettings
    from components.engine.checkpoints import Checkpoint
    from components.engine.task import TrainingTask

# Optional parts of transformers and accelerate that are imported where they are installed, and take 10 s of every start; no task uses them,
# but for peft where there are adapters.
UNUSED = ("boto3", "datasets", "mlflow", "peft", "sklearn")
MUON = "deepspeed.runtime.zero.muon.muon_optimizer"
SETTINGS = "settings.json"


def main() -> None:
    """Run a rank; a failure is left in `fault-RANK.json` of the scratch folder for the launcher to tell."""
    options = _options()
    watchdog.end_with(options.launcher, options.launcher_started)
    rank = int(os.environ["RANK"])
    try:
        run(options, rank)
    except BaseException as error:
        leave_fault(options.scratch, rank, error)
        raise


def run(options: argparse.Namespace, rank: int) -> None:
    """Train and export."""
    began = time.perf_counter()
    settings = parse_settings(read_json(options.scratch / SETTINGS), str(options.scratch / SETTINGS))
    leave_out_unused(adapters=settings.model.lora.rank > 0)
    import torch

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(settings.training.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and only hides reads of memory that nobody wrote

    from torch import distributed

    from components.engine import checkpoints, health, partitions
    from components.engine.arguments import training_arguments
    from components.engine.curves import PLAN
    from components.engine.schedule import Schedule, seed_everything
    from components.engine.task import check_plan
    from components.engine.throughput import peak_memory_gb, summarise
    from components.engine.trainer import TaskTrainer

    section = section_of(settings, options.stage)
    args = training_arguments(settings.training, section, options.root, options.scratch)
    world = distributed.get_world_size()
    resumed = _resume(options.scratch, rank, world)
    seed_everything(settings.training.seed, 0)
    task: TrainingTask = _factory(options.factory)(settings, options.root)
    first = task.epoch_plan(0)
    check_plan(first, world, len(first))
    schedule = Schedule.plan(len(first), task.epochs, section.max_steps, section.warmup_share)
    trainer = TaskTrainer(task, args, schedule, settings.training.keep_checkpoints, resumed, settings.training.parts)
    done = resumed.step if resumed else 0
    if rank == 0:
        write_json(options.scratch / PLAN, {"steps": schedule.total, "resumed_from": done})
        engine = f"DeepSpeed ZeRO-{settings.training.zero_stage}" if settings.training.engine == "deepspeed" else "DDP"
        what = f"resumed from step {done} of {schedule.total}" if resumed else f"starting {schedule.total} steps"
        where = f"{engine}, {world} ranks on {args.device.type}, {settings.training.precision}"
        _say(f"{what}: {where}, ready in {time.perf_counter() - began:.0f} s")
        if settings.training.offload != "none" and args.device.type == "cpu":
            _say(f"training.offload {settings.training.offload} moves nothing here: on a CPU all of it is in its memory already")
    trained = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - trained
    measured = trainer.context.gather((trainer.meter, peak_memory_gb()))
    digest = health.check_ranks_agree(task.model)
    with partitions.whole_on_rank_0(task.model):
        if rank == 0:
            export(task, options.out)
    if rank == 0:
        figures = summarise(*zip(*measured, strict=True))
        finished = {
            "steps": schedule.total,
            "resumed_from": done,
            "seconds": seconds,
            "startup_seconds": trained - began,
            "weights": digest,
        }
        throughput = {name: value for name, value in figures.items() if value is not None}
        write_json(options.scratch / checkpoints.FINISHED, finished | {"throughput": throughput})
    distributed.barrier()
    distributed.destroy_process_group()


def leave_out_unused(*, adapters: bool = False) -> None:
    """Keep imports that no task uses out of the start. Saves some 15 of 40 s of processor time a rank."""
    for name in UNUSED:
        if name == "peft" and adapters:
            continue
        sys.modules[name] = None  # type: ignore[assignment]  # the import system reads None as "not there"
    # DeepSpeed asks of any optimiser whether it is Muon, and importing Muon loads torch's compiler. The optimiser here is AdamW.
    muon = types.ModuleType(MUON)
    muon.MuonWithAuxAdam = type("MuonWithAuxAdam", (), {})  # type: ignore[attr-defined]
    sys.modules[MUON] = muon


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
    return {"reward": settings.reward, "align": settings.alignment}[stage]


def _resume(scratch: Path, rank: int, world: int) -> Checkpoint | None:
    """The checkpoint to go on from, chosen by rank 0. Raises StageFault where it was written by another number of ranks."""
    from torch import distributed

    from components.engine import checkpoints

    found: list[Any] = [checkpoints.newest(scratch, _say) if rank == 0 else None]
    distributed.broadcast_object_list(found, src=0)
    checkpoint: Checkpoint | None = found[0]
    if checkpoint is not None and checkpoint.world != world:
        raise StageFault(f"{checkpoint.folder} was written by {checkpoint.world} ranks, not {world}: remove it to start again")
    return checkpoint


def _factory(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _say(sentence: str) -> None:
    sys.stdout.write(f"training: {sentence}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factory", required=True, help="module:function that builds the task from (settings, root)")
    parser.add_argument("--stage", required=True, choices=["reward", "align"])
    parser.add_argument("--root", type=Path, required=True, help="root of the checkout")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of checkpoints and curves, holding settings.json")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model goes")
    parser.add_argument("--launcher", type=int, required=True, help="pid of the process that this one ends with")
    parser.add_argument("--launcher-started", type=float, required=True, help="when that process was started")
    return parser.parse_args()


if __name__ == "__main__":
    main()
