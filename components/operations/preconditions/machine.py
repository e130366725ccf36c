"""What the machine must have for the stages that will run: GPUs, kernels, shared memory, open files, time and disk."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.preconditions.situation import Situation
from components.processes.machine_errors import LIMIT_CURE, open_file_limit
from components.processes.slots.gpus import visible_gpus
from components.rehearsal.ledger import RESERVE_BYTES, Volume, ledger
from components.rehearsal.sizes import duration, size
from components.stages import TRAINING

SHOWN_ENTRIES = 4  # of a file system that is too small, in a sentence
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the check is about this folder
# DeepSpeed's op maps two buffers of 1 MiB and two of 32 MiB there for each rank. With less, a rank hangs, or dies of SIGBUS without a message.
SHARED_BYTES_A_RANK = 2 * (1 + 32) * 2**20
# Two ranks on a CPU had 28 files open each, torchrun 25, the run's server 26. A further rank adds its pipes and connections.
OPEN_FILES, OPEN_FILES_A_RANK = 48, 8
OPEN_FILES_WITH_GPUS = 1024  # NCCL has a connection for each channel to each peer


def gpus(situation: Situation) -> Finding:
    """The machine has as many GPUs as each stage that will run takes."""
    wanted = {stage: situation.settings.stages[stage].gpus for stage in situation.stages}
    if not any(wanted.values()):
        return ok("no stage takes a GPU")
    number = len(visible_gpus())
    beyond = {stage: count for stage, count in wanted.items() if count > number}
    if beyond:
        counts = ", ".join(f"{stage} {count}" for stage, count in beyond.items())
        return problem(
            f"stages take more GPUs than the {number} that are visible here (stages.NAME.gpus: {counts})",
            "use a machine with more GPUs, or a profile for fewer (mmalign configure --list)",
        )
    return ok(f"{number} GPU{'s' if number != 1 else ''} visible, at most {max(wanted.values())} a stage")


def kernels(situation: Situation) -> Finding:
    """Trainings that take Triton's kernels have GPUs, and the package that brings them is installed."""
    name = situation.settings.training.kernels
    trainings = [stage for stage in situation.stages if stage in TRAINING]
    if name == "torch" or not trainings:
        return ok("torch's own kernels")
    on_processor = [stage for stage in trainings if not situation.settings.stages[stage].gpus]
    if on_processor:
        return problem(
            f"training.kernels {name} needs GPUs, and {' and '.join(on_processor)} would train on a processor",
            "mmalign configure --set training.kernels=torch",
        )
    if find_spec("liger_kernel") is None:
        return problem(
            f"training.kernels {name} needs the package liger-kernel, which is not installed",
            "pip install liger-kernel, or mmalign configure --set training.kernels=torch",
        )
    return ok(f"the kernels of {name}")


def shared_memory(situation: Situation) -> Finding:
    """Shared memory has room for the buffers through which ranks of DeepSpeed on a CPU exchange gradients."""
    training = situation.settings.training
    on_processor = [stage for stage in situation.stages if stage in TRAINING and not situation.settings.stages[stage].gpus]
    if training.engine != "deepspeed" or not on_processor or not SHARED_MEMORY.is_dir():
        return ok(f"no training takes {SHARED_MEMORY}")
    free, needed = shutil.disk_usage(SHARED_MEMORY).free, training.ranks * SHARED_BYTES_A_RANK
    if free < needed:
        return problem(
            f"{size(free) if free else 'nothing'} free in {SHARED_MEMORY}, where {training.ranks} ranks of training map {size(needed)}, and hang "
            "or die without it",
            "start the container with --shm-size=1g (Docker's default is 64 MB), mount a larger tmpfs there, or train with "
            "mmalign configure --set training.engine=ddp",
        )
    return ok(f"{size(free)} free in {SHARED_MEMORY}")


def open_files(situation: Situation) -> Finding:
    """A process may have as many files open as ranks, their launcher and the run's server need."""
    settings, limit = situation.settings, open_file_limit()
    trainings = [stage for stage in situation.stages if stage in TRAINING]
    needed = OPEN_FILES + OPEN_FILES_A_RANK * (settings.training.ranks if trainings else 1)
    if limit < needed:
        return problem(f"a process may have {limit} files open here, and the stages that will run need {needed}", LIMIT_CURE)
    if limit < OPEN_FILES_WITH_GPUS and any(settings.stages[stage].gpus > 1 for stage in trainings):
        return warning(f"a process may have {limit} files open here, and ranks on GPUs may need {OPEN_FILES_WITH_GPUS}", LIMIT_CURE)
    return ok(f"a process may have {limit:,} files open")


def deadlines(situation: Situation) -> Finding:
    """No stage that will run takes longer, by the measured rate, than its deadline."""
    if situation.plan is None or not any(situation.plan.seconds.values()):
        return ok("no time is planned, since no rate was measured with these settings (mmalign bench rate)")
    planned = {stage: situation.plan.seconds.get(stage) or 0.0 for stage in situation.stages}
    late = {stage: seconds for stage, seconds in planned.items() if seconds > situation.settings.stages[stage].deadline_minutes * 60}
    if late:
        times = ", ".join(
            f"{stage} takes about {duration(seconds)}, and ends at {duration(situation.settings.stages[stage].deadline_minutes * 60)}"
            for stage, seconds in late.items()
        )
        changes = " ".join(f"--set stages.{stage}.deadline_minutes={_rounded(seconds * 1.5 / 60)}" for stage, seconds in late.items())
        return problem(f"at the measured rate stages pass their deadlines: {times}", f"mmalign configure {changes}")
    return ok(", ".join(f"{stage} {duration(seconds)}" for stage, seconds in planned.items() if seconds) + ", within the deadlines")


def disk(situation: Situation) -> Finding:
    """Every file system has room for what the run still writes to it."""
    volumes = ledger(situation.plan, situation.checkout, situation.stages, situation.data)
    for volume in volumes:
        if volume.lacking:
            entries = ", ".join(f"{entry.what} {size(entry.bytes)}" for entry in volume.entries[:SHOWN_ENTRIES] if entry.bytes)
            return problem(
                f"too little disk for {_folders(volume, situation.checkout.root)}: {size(volume.free)} free, and the run still writes "
                f"{size(volume.needed)} there{f' ({entries})' if entries else ''}, beside a reserve of {size(RESERVE_BYTES)}",
                f"free {size(volume.lacking)} (mmalign clean), or move a part to another disk ({_cures(volume)}); mmalign plan --memory lists all",
            )
    usage = "; ".join(
        f"{size(volume.free)} free for {_folders(volume, situation.checkout.root)}, and a run still writes {size(volume.needed)}"
        for volume in volumes
    )
    if any(volume.free < volume.needed + _growth(volume) + RESERVE_BYTES for volume in volumes):
        return warning(
            f"{usage}: this run fits, the next one does not", "mmalign clean; or move DVC's cache to a larger disk: dvc cache dir PATH"
        )
    return ok(usage)


def _growth(volume: Volume) -> int:
    """Bytes that every run adds for good: its outputs in DVC's cache. Checkpoints go, features stay, and outputs are replaced."""
    return sum(entry.bytes for entry in volume.entries if entry.what.startswith("outputs") and "DVC's cache" in entry.what)


def _folders(volume: Volume, root: Path) -> str:
    """The folders of a file system, the one with the largest entry first, as seen from the checkout."""
    entries = [entry for entry in volume.entries if entry.bytes] or volume.entries
    names = [str(entry.folder.relative_to(root)) if entry.folder.is_relative_to(root) else str(entry.folder) for entry in entries]
    folders = list(dict.fromkeys("/".join(Path(name).parts[:2]) if not name.startswith("/") else name for name in names))
    return ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")


def _cures(volume: Volume) -> str:
    words = {
        "features": "features.max_gb bounds the features",
        "cache": "DVC's cache: dvc cache dir PATH",
        "checkpoints": "checkpoints and features: make .mmalign a link",
    }
    named = {
        "features": any(entry.what.startswith("features") for entry in volume.entries),
        "cache": any("DVC's cache" in entry.what for entry in volume.entries),
        "checkpoints": any(entry.what.startswith("checkpoints") for entry in volume.entries),
    }
    return "; ".join(text for key, text in words.items() if named[key]) or "a link to a folder there"


def _rounded(minutes: float) -> int:
    """Minutes with two digits, rounded up."""
    step = 10 ** max(0, len(str(int(minutes))) - 2)
    return int(-(-minutes // step) * step)
