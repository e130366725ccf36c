"""Runs a training task in `training.ranks` processes under torchrun, shows its progress, and hands back what it left.

- torchrun is a child in this process's session and is ended with it; the ranks, which sit in sessions of their own, watch this process.
- The environment is passed through, so that a supervisor's mark reaches every process.
- A rank that fails leaves its reason in the scratch folder, which becomes this stage's one sentence.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.config import Settings
from components.errors import StageFault, UserError
from components.files import read_json, write_json
from components.training import checkpoints, ops, watchdog
from components.training.curves import CURVES, PLAN, Follower
from components.training.worker import SETTINGS, section_of

GRACE_SECONDS = 15  # that ranks have between SIGTERM and SIGKILL
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished run left: its curves, how long its steps took and its start before them, and how far it had come before.

    `throughput` holds what `components.training.throughput.summarise` gives of the steps of this process, where it was measured.
    """

    curves: Path
    seconds: float
    startup_seconds: float
    steps: int
    resumed_from: int
    weights: str
    throughput: dict[str, float] = field(default_factory=dict)


def launch(task_factory: str, settings: Settings, stage: str, root: Path, key: str, out: Path) -> TrainingOutcome:
    """Train the task that `task_factory` ("module:function") builds, and write the model to `out`.

    `key` is a digest of everything that the result depends on beside `settings.training` and the stage's own section; a killed run with
    the same key goes on where it was. Raises UserError or StageFault with the first failing rank's reason.
    """
    section = section_of(settings, stage)
    scratch = checkpoints.scratch_folder(root, stage, key, settings.training, section)
    checkpoints.remove_finished(root, stage, but=scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    for stale in [*scratch.glob("fault-*.json"), scratch / checkpoints.FINISHED, scratch / PLAN]:
        stale.unlink(missing_ok=True)
    write_json(scratch / SETTINGS, settings.model_dump(mode="json", by_alias=True))
    environment = worker_environment(root, settings)
    if settings.training.engine == "deepspeed":
        ops.ensure_built(environment)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={settings.training.ranks}"]
    command += ["-m", "components.training.worker", "--factory", task_factory, "--stage", stage]
    command += ["--root", str(root.resolve()), "--scratch", str(scratch.resolve()), "--out", str(out.resolve())]
    command += ["--launcher", str(os.getpid()), "--launcher-started", repr(watchdog.started(os.getpid()))]
    code = _follow(subprocess.Popen(command, env=environment), Follower(scratch, stage))
    if code != 0 or not (scratch / checkpoints.FINISHED).is_file():
        raise _fault(scratch, stage, code)
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


def worker_environment(root: Path, settings: Settings) -> dict[str, str]:
    """The environment of torchrun and its ranks: this one's, with what makes runs equal and starts quick."""
    threads = str(settings.training.threads)
    code = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ)
    environment |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it, matrix products on a GPU differ from run to run
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),  # for ninja
    }
    defaults = {
        "TORCH_EXTENSIONS_DIR": str(root.resolve() / ".mmalign" / "torch_extensions"),
        "HF_HUB_OFFLINE": "1",  # a checkpoint is a local folder; a typing error must not become a download
        "USE_TF": "0",
    }
    return {**defaults, **environment}


def _follow(process: subprocess.Popen[bytes], follower: Follower) -> int:
    try:
        while process.poll() is None:
            follower.poll()
            time.sleep(POLL_SECONDS)
        follower.poll(last=True)
    finally:
        follower.end()
        if process.poll() is None:
            process.terminate()  # torchrun hands it on to its ranks
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its ranks see that and end
                process.wait()
    return process.returncode


def _fault(scratch: Path, stage: str, code: int) -> Exception:
    faults = [read_json(path) for path in sorted(scratch.glob("fault-*.json"))]
    # A rank that lost its peer fails too, with a message about sockets: a known reason goes first, then the earliest.
    faults.sort(key=lambda fault: (fault["kind"] == "error", fault["time"]))
    if not faults:
        return StageFault(f"{stage}: the training processes ended with code {code} and left no reason; their output stands above")
    message = faults[0]["message"]
    return UserError(message) if faults[0]["kind"] == "user" else StageFault(f"{stage}: {message}")
