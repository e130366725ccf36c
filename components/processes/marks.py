"""Finds the processes of a run by a mark in their environment.

- torchrun's workers have their own sessions, so no process group reaches them. All of them inherit the environment.
- Pid and start time together name a process, since the system reuses pids.
- A zombie counts as ended: it runs nothing and holds nothing, and in a container nobody may ever reap it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from components.checkout import Checkout

RUN_MARK = "MMALIGN_MARK"  # <checkout>:<run>, in every process that ends with a run
STAGE_MARK = "MMALIGN_STAGE_MARK"  # <stage>:<attempt>, in every process that ends with a stage
SERVICE_MARK = "MMALIGN_SERVICE"  # the checkout's mark, in supervisor and all that it starts
SERVICE = "SUPERVISOR_PROCESS_NAME"  # the service's name, which supervisor sets in it and so in all below it
FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # id of a deployment's flow run: Prefect's worker sets it in the run's process, and all below inherit it
WATCHED = "MMALIGN_WATCH"  # <pid>:<start> of the process that this one must not outlive


@dataclass(frozen=True)
class MarkedProcess:
    """A live process that carries a mark."""

    pid: int
    command: str
    run_mark: str
    stage_mark: str


def checkout_mark(checkout: Checkout) -> str:
    """The prefix of all marks of one checkout. Links to the checkout give the same prefix."""
    return hashlib.sha256(os.fsencode(checkout.root.resolve())).hexdigest()[:16]


def new_run_mark(checkout: Checkout) -> str:
    """A mark for one run in this checkout."""
    return f"{checkout_mark(checkout)}:{uuid.uuid4().hex}"


def new_stage_mark(stage: str) -> str:
    """A mark for one attempt at one stage."""
    return f"{stage}:{uuid.uuid4().hex}"


def identity(pid: int) -> str | None:
    """`<pid>:<start>` of a live process; None where no such process lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return _identity_without_proc(pid)
    except (ProcessLookupError, PermissionError):
        return None
    return None if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def _identity_without_proc(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{pid}:{process.create_time()}"
    except psutil.Error:
        return None


def is_alive(named: str) -> bool:
    """Whether the process that `identity` named lives."""
    return identity(int(named.partition(":")[0])) == named


def marked(variable: str, prefix: str) -> list[MarkedProcess]:
    """Live processes, without this one, whose environment variable `variable` begins with `prefix`."""
    processes = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
            if not environment.get(variable, "").startswith(prefix) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline()) or process.name()
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or is another user's: neither can be ours
        processes.append(MarkedProcess(process.pid, command, environment.get(RUN_MARK, ""), environment.get(STAGE_MARK, "")))
    return processes


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each of `pids` that still lives."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def end_process(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """Terminate a child, kill it after `seconds`, and reap it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def wait_until_ended(
    find: Callable[[], list[MarkedProcess]], seconds: float, reap: Callable[[], object] = lambda: None
) -> list[MarkedProcess]:
    """Poll `find` until it returns nothing, at most `seconds`; returns the processes left. `reap` reaps children between polls."""
    until = time.monotonic() + seconds
    while True:
        reap()
        left = find()
        if not left or time.monotonic() >= until:
            return left
        time.sleep(0.1)


def kill_all(
    find: Callable[[], list[MarkedProcess]], seconds: float = 5.0, reap: Callable[[], object] = lambda: None
) -> list[MarkedProcess]:
    """SIGKILL the processes of `find` until it returns nothing, at most `seconds`; returns the processes left."""
    until = time.monotonic() + seconds
    while left := find():
        send((process.pid for process in left), signal.SIGKILL)
        left = wait_until_ended(find, 0.3, reap)
        if not left or time.monotonic() >= until:
            return left
    return []
