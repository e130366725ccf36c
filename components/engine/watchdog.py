"""A rank ends when the stage that launched it, or torchrun between them, is gone.

torchrun puts every rank into a session of its own, so no signal to a process group reaches it, and a SIGKILL of torchrun or of the stage
would leave ranks that go on writing checkpoints beside the next run's.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import psutil

POLL_SECONDS = 0.5
ORPHANED = 70  # exit code of a rank whose launcher is gone


def started(pid: int) -> float:
    """When the process `pid` was started, in seconds since the epoch; with its pid it names a process for good."""
    return psutil.Process(pid).create_time()


def end_with(launcher: int, launcher_started: float) -> None:
    """Start a thread that ends this process, without cleaning up, as soon as its parent or `launcher` has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and _lives(launcher, launcher_started):
            time.sleep(POLL_SECONDS)
        sys.stderr.write(f"rank {os.environ.get('RANK', '?')}: the stage that launched it has ended, so it ends too\n")
        sys.stderr.flush()
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


def _lives(pid: int, since: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - since) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
