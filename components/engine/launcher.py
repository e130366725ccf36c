"""Starts a stage's ranks under torchrun, follows them, and ends them with the stage.

- This module is also what runs torchrun (`python -m components.engine.launcher --standalone ...`), with an exit code that says how the first
  rank failed: torchrun's own is 1 whether a rank raised or was killed, and only its parent can know which.
- torchrun is a child in this process's session and is ended with it; the ranks, which sit in sessions of their own, watch this process.
- The environment is passed through, so that a supervisor's mark reaches every process.
- Ranks that make no progress are ended, with the names of rank, module and step: components/processes/stalls.py.
- A rank that fails leaves its reason in the scratch folder, which becomes the stage's one sentence, with its kind. One that a signal ended
  leaves none: torchrun's exit code tells that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from components import stages
from components.checkout import Checkout
from components.engine import watchdog
from components.errors import InfrastructureFault, StageFault, UserError
from components.files import read_json, write_json
from components.processes.fault_kinds import SIGNALLED, FaultKind, error_of, fault_kind, kind_named, lost_a_peer, sentence_of
from components.processes.stalls import Stalls

SETTINGS, ARGUMENTS = "settings.json", "arguments.json"  # what the ranks read in the scratch folder
GRACE_SECONDS = 15  # that ranks have between SIGTERM and SIGKILL
POLL_SECONDS = 0.2
NO_ROOM = 74  # exit code of a rank that could not write down why it failed: the disk is full or broken


def rank_environment(checkout: Checkout, threads: int) -> dict[str, str]:
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
        "TORCH_EXTENSIONS_DIR": str(checkout.absolute().torch_extensions),
        "HF_HUB_OFFLINE": "1",  # a checkpoint is a local folder; a typing error must not become a download
        "USE_TF": "0",
    }
    return {**defaults, **environment}


def run_ranks(
    arguments: Sequence[str],
    *,
    ranks: int,
    environment: dict[str, str],
    poll: Callable[[], None] = lambda: None,
    module: str = stages.PROCESSES["worker"],
    stalls: Stalls | None = None,
) -> int:
    """Run the worker with `arguments` as `ranks` processes and return the exit code of the rank that failed first, 128 and more for a signal,
    negative where a signal ended torchrun itself. `poll` is called some times a second.

    The ranks get `--launcher` and `--launcher-started` beside `arguments`, for their watchdog. Whatever ends this call ends them. With `stalls`
    they are ended once they make no progress, and the reason is left beside theirs.
    """
    # Without logs of its own, torchrun leaves no folder among the temporary ones: it never removes its default.
    torchrun = [*stages.command("torchrun"), "--standalone", "--log-dir", os.devnull]
    command = [*torchrun, f"--nproc-per-node={ranks}", "-m", module, *arguments]
    command += ["--launcher", str(os.getpid()), "--launcher-started", repr(watchdog.started(os.getpid()))]
    if stalls:
        stalls.forget()
    process = subprocess.Popen(command, env=environment)
    try:
        while process.poll() is None:
            poll()
            if stalls and (stall := stalls.check()):
                _leave(stalls.folder, "launcher", kind=stall.kind, message=stall.sentence)
                stalls.kill()  # ranks in a collective and stopped ones see no other signal; torchrun ends with them
                process.wait()
                break
            time.sleep(POLL_SECONDS)
        poll()
        if stalls and process.returncode and (stall := stalls.mismatch()):
            _leave(stalls.folder, "launcher", kind=stall.kind, message=stall.sentence)
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
    expected, message = isinstance(error, UserError | StageFault), sentence_of(error)
    try:
        _leave(scratch, str(rank), kind=fault_kind(error), message=message, expected=expected, lost_a_peer=lost_a_peer(error))
    except OSError as unwritable:
        _end(f"rank {rank}: {message} ({unwritable})", NO_ROOM)
    if expected:
        _end(f"rank {rank}: {message}", 1)


def _leave(scratch: Path, who: str, *, kind: FaultKind, message: str, expected: bool = True, lost_a_peer: bool = False) -> None:
    fault = {"kind": kind, "message": message, "known": expected, "lost_a_peer": lost_a_peer, "time": time.time()}
    write_json(scratch / f"fault-{who}.json", fault)


def fault_of(scratch: Path, stage: str, code: int) -> Exception:
    """What the stage raises for its ranks. A known reason goes first, then the earliest; a rank that lost its peer fails because of that."""
    faults = [read_json(path) for path in sorted(scratch.glob("fault-*.json"))]
    faults.sort(key=lambda fault: (not fault["known"], fault["lost_a_peer"], fault["time"]))
    by_signal = code - SIGNALLED if code > SIGNALLED else -code if code < 0 else None
    if faults and not (by_signal is not None and faults[0]["lost_a_peer"]):
        kind = kind_named(faults[0]["kind"])
        message = faults[0]["message"]
        return error_of(kind, message if kind == "mistake" else f"{stage}: {message}")
    if by_signal is not None:
        return InfrastructureFault(f"{stage}: {'torchrun' if code < 0 else 'a rank'} was ended by {_signal_name(by_signal)}")
    if code == NO_ROOM:
        return InfrastructureFault(f"{stage}: a rank failed and could not write down why: the disk is full or broken")
    return StageFault(f"{stage}: its processes ended with code {code} and left no reason; their output stands above")


def _end(sentence: str, code: int) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
    os._exit(code)


def _signal_name(number: int) -> str:
    """SIGKILL and SIGBUS with what mostly sends them."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    causes = {"SIGKILL": "out of memory, or killed", "SIGBUS": "shared memory or a disk was full"}
    return f"{name} ({causes[name]})" if name in causes else name


def torchrun(arguments: list[str]) -> int:
    """Run torchrun to its end: 0, 128 and the signal's number where a signal ended the first rank that failed, else that rank's exit code."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(arguments)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        _, first = error.get_first_failure()
        return SIGNALLED - first.exitcode if first.exitcode < 0 else first.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(torchrun(sys.argv[1:]))
