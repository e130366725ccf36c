"""Locks that keep two runs from writing the same files, and watchdogs that end a process with its supervisor.

- A lock is the operating system's (flock). The system releases it when its holder ends, so no lock is ever stale.
- A watchdog is a thread that polls the watched process twice a second. When that process ends, the watchdog ends all processes with
  the same mark: SIGTERM, a grace period, SIGKILL, and its own process last.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from components.checkout import Checkout
from components.errors import UserError
from components.processes.marks import (
    RUN_MARK,
    STAGE_MARK,
    WATCHED,
    MarkedProcess,
    checkout_mark,
    identity,
    is_alive,
    kill_all,
    marked,
    new_run_mark,
    new_stage_mark,
    send,
    wait_until_ended,
)

GRACE_SECONDS = float(os.environ.get("MMALIGN_GRACE_SECONDS", "20"))  # from SIGTERM to SIGKILL; torchrun's ranks end within it
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh"})


class Lock:
    """An exclusive lock on a file, until `release` or until the last process with `descriptor` ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def try_lock(path: Path, who: str | None = None) -> Lock | None:
    """Take the lock on `path`; None while another process holds it. The file names the holder: its pid, and its command or `who`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "command": who or " ".join(sys.argv)}).encode(), 0)
    return Lock(path, descriptor)


def lock_holder(path: Path) -> str:
    """The holder of a lock for messages, such as `process 123 (mmalign run)`."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {holder['pid']} ({holder['command']})"


def refuse_leftovers(checkout: Checkout, stage: str | None = None, seconds: float = 0.0) -> None:
    """Raises UserError where processes of an earlier run in this checkout, or, with `stage`, those of that stage, still live after `seconds`."""
    own_run, own_stage = os.environ.get(RUN_MARK), os.environ.get(STAGE_MARK)

    def leftovers() -> list[MarkedProcess]:
        live = marked(RUN_MARK, checkout_mark(checkout))
        if stage is None:
            return [p for p in live if p.run_mark != own_run]
        return [p for p in live if p.stage_mark.startswith(f"{stage}:") and p.stage_mark != own_stage]

    if left := wait_until_ended(leftovers, seconds):
        raise UserError(leftover_sentence(left))


def leftover_sentence(left: list[MarkedProcess]) -> str:
    """A message that names live processes and the command that ends them."""
    names = "; ".join(f"{p.pid} ({p.command[:80]})" for p in left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    pids = " ".join(str(p.pid) for p in left)
    return f"processes of an earlier run in this checkout still live: {names}; wait for them, or end them with: kill -9 {pids}"


@contextmanager
def stage_guard(checkout: Checkout, stage: str) -> Iterator[None]:
    """Lock the stage, mark all child processes, and end with the supervisor or, without one, with dvc.

    Raises UserError while another copy of the stage runs in this checkout.
    """
    path = checkout.locks / f"{stage}.lock"
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"stage {stage} already runs in this checkout: {lock_holder(path)}; wait for it or end it")
    try:
        refuse_leftovers(checkout, stage)
        supervised = STAGE_MARK in os.environ
        os.environ.setdefault(RUN_MARK, new_run_mark(checkout))
        mark = os.environ.setdefault(STAGE_MARK, new_stage_mark(stage))
        watched = os.environ.get(WATCHED) or _dvc_identity()
        os.environ[WATCHED] = identity(os.getpid()) or ""  # children of the stage end with it
        watchdog = Watchdog(watched, lambda: _end_marked(mark)) if watched else None
        try:
            yield
        finally:
            if watchdog is not None:
                watchdog.stop()
            if not supervised:
                kill_all(lambda: marked(STAGE_MARK, mark))
    finally:
        lock.release()


def watch_from_environment() -> None:
    """End this worker process when the process that the stage's environment names ends."""
    watched = os.environ.get(WATCHED)
    if watched:
        Watchdog(watched, lambda: os._exit(1))


def _dvc_identity() -> str | None:
    """dvc under a bare `dvc repro`: the nearest ancestor that is no shell. None for a stage that a person started."""
    if "DVC_STAGE" not in os.environ:
        return None
    for ancestor in psutil.Process().parents():
        if ancestor.name() not in SHELLS:
            return identity(ancestor.pid)
    return None


def _end_marked(mark: str) -> None:
    def others() -> list[MarkedProcess]:
        return marked(STAGE_MARK, mark)

    send((process.pid for process in others()), signal.SIGTERM)
    if wait_until_ended(others, GRACE_SECONDS):
        kill_all(others)
    os._exit(1)


class Watchdog:
    """Calls `on_exit` once, from its own thread, when the process `watched` has ended."""

    def __init__(self, watched: str, on_exit: Callable[[], object], interval_seconds: float = 0.5) -> None:
        self._watched = watched
        self._on_exit = on_exit
        self._interval = interval_seconds
        self._stopped = threading.Event()
        self._fired = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            if not is_alive(self._watched):
                self._fired.set()
                try:
                    sys.stderr.write(f"process {self._watched.partition(':')[0]}, which supervises this one, has ended: ending too\n")
                except OSError:
                    pass  # its terminal may be closed too
                self._on_exit()
                return

    def forget(self) -> None:
        """Stop watching, whether or not the watchdog has fired."""
        self._stopped.set()

    def stop(self) -> None:
        """Stop watching. A watchdog that has fired already ends this process, so this waits for it."""
        self._stopped.set()
        if self._fired.is_set():
            self._thread.join()


@contextmanager
def run_lock(
    checkout: Checkout,
    wait_seconds: float = 0.0,
    cancel: threading.Event | None = None,
    log: Callable[[str], object] = lambda _: None,
    who: str | None = None,
) -> Iterator[Lock]:
    """Hold this checkout's run lock, so that one run works at a time.

    While another run holds the lock, this waits up to `wait_seconds`, or until `cancel` is set, and logs the holder. A killed run's processes
    end within the grace period; a run that may wait waits for them, too. Raises UserError when the wait was in vain.
    """
    path = checkout.locks / "run.lock"
    lock = wait_for_lock(path, wait_seconds, cancel, log, who)
    if lock is None:
        raise UserError(f"a run is under way in this checkout: {lock_holder(path)}; wait for it or end it")
    try:
        refuse_leftovers(checkout, seconds=min(wait_seconds, GRACE_SECONDS + 10))
        yield lock
    finally:
        lock.release()


def wait_for_lock(
    path: Path, wait_seconds: float, cancel: threading.Event | None, log: Callable[[str], object], who: str | None = None
) -> Lock | None:
    """Take the lock on `path` as soon as it is free; None after `wait_seconds`, or once `cancel` is set."""
    until = time.monotonic() + wait_seconds
    logged = False
    while (lock := try_lock(path, who)) is None:
        if time.monotonic() >= until or (cancel is not None and cancel.is_set()):
            return None
        if not logged:
            log(f"waiting for {lock_holder(path)}")
            logged = True
        (cancel or threading.Event()).wait(1.0)
    return lock
