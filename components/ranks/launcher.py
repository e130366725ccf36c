"""Starts a stage's ranks under torchrun, follows them, and ends them with the stage.

- torchrun is a child in this process's session and is ended with it; the ranks, which sit in sessions of their own, watch this process.
- The environment is passed through, so that a supervisor's mark reaches every process.
- A rank that fails leaves its reason in the scratch folder, which becomes the stage's one sentence.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from components.errors import StageFault, UserError
from components.files import read_json, write_json
from components.ranks import watchdog

GRACE_SECONDS = 15  # that ranks have between SIGTERM and SIGKILL
POLL_SECONDS = 0.2


def rank_environment(root: Path, threads: int) -> dict[str, str]:
    """The environment of torchrun and its ranks: this one's, with what makes runs equal and starts quick."""
    code = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ)
    environment |= {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
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


def run_ranks(
    module: str, arguments: Sequence[str], *, ranks: int, environment: dict[str, str], poll: Callable[[], None] = lambda: None
) -> int:
    """Run `python -m module arguments` as `ranks` processes and return the exit code. `poll` is called some times a second.

    The ranks get `--launcher` and `--launcher-started` beside `arguments`, for their watchdog. Whatever ends this call ends them.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", module, *arguments]
    command += ["--launcher", str(os.getpid()), "--launcher-started", repr(watchdog.started(os.getpid()))]
    process = subprocess.Popen(command, env=environment)
    try:
        while process.poll() is None:
            poll()
            time.sleep(POLL_SECONDS)
        poll()
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun hands it on to its ranks
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its ranks see that and end
                process.wait()
    return process.returncode


def leave_fault(scratch: Path, rank: int, error: BaseException) -> None:
    """Leave a rank's reason for the launcher. Does not return where the reason is a sentence for people; else the caller raises.

    Not a normal end: ranks that wait in a collective would keep the interpreter from leaving.
    """
    kind = "user" if isinstance(error, UserError) else "fault" if isinstance(error, StageFault) else "error"
    message = str(error) if kind != "error" else f"{type(error).__name__}: {error}"
    write_json(scratch / f"fault-{rank}.json", {"kind": kind, "message": message, "time": time.time()})
    if kind != "error":
        sys.stderr.write(f"rank {rank}: {message}\n")
        sys.stderr.flush()
        os._exit(1)


def fault_of(scratch: Path, stage: str, code: int) -> Exception:
    """What the stage raises for its ranks. A known reason goes first, then the earliest: a rank that lost its peer fails too."""
    faults = [read_json(path) for path in sorted(scratch.glob("fault-*.json"))]
    faults.sort(key=lambda fault: (fault["kind"] == "error", fault["time"]))
    if not faults:
        return StageFault(f"{stage}: its processes ended with code {code} and left no reason; their output stands above")
    message = faults[0]["message"]
    return UserError(message) if faults[0]["kind"] == "user" else StageFault(f"{stage}: {message}")
