"""One way to stop a run: Ctrl-C, SIGTERM, a closed terminal and the end of the command line all set the same event."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from components.errors import Cancelled
from components.processes.guard import GRACE_SECONDS, Watchdog
from components.processes.marks import RUN_MARK, WATCHED, kill_all, marked

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LAST_RESORT_SECONDS = GRACE_SECONDS + 30  # for a tidy end of a run whose command line has ended


class RunCancelled(Cancelled):
    """A person or the system stopped the run before its end."""


_active: threading.Event | None = None


@contextmanager
def cancellation() -> Iterator[threading.Event]:
    """An event that is set when the run has to stop; a nested `cancellation` yields the same event.

    In the main thread it handles the signals, and restores their handlers at the end. A flow enters it in its body too, since Prefect's
    engine takes SIGTERM before that.
    """
    global _active  # noqa: PLW0603 -- signals are the whole process's, and so is their event
    outer = _active
    cancel = _active = outer or threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- the signature of a signal handler
        cancel.set()

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        # nohup ignores a hang-up, and so must the run.
        handled = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
        handlers = {number: signal.signal(number, stop) for number in handled}
    watched = os.environ.pop(WATCHED, None)
    watchdog = Watchdog(watched, lambda: _stop_or_die(cancel)) if watched else None
    try:
        yield cancel
    finally:
        _active = outer
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if watchdog is not None:
            watchdog.forget()


def _stop_or_die(cancel: threading.Event) -> None:
    cancel.set()
    time.sleep(LAST_RESORT_SECONDS)
    mark = os.environ.get(RUN_MARK)
    if mark:
        kill_all(lambda: marked(RUN_MARK, mark))
    os._exit(1)
