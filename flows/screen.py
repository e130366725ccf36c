"""What a person sees of running stages: new lines of their logs, throttled, each with the stage's name in front.

A terminal that is gone must not end a run, so a failed write only makes the screen silent.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from components.processes.log_lines import clean

PROGRESS_SECONDS = 5.0  # at most one line of a progress bar in this time
BURST_LINES = 20  # at most so many lines in one look; the rest are counted
LOOK_SECONDS = 0.5
# What DVC says to somebody at a prompt; here it would come six times a run. The log has it.
HINTS = re.compile(
    r"(Generating|Updating) lock file|To track the changes with git|git add |To enable auto staging|dvc config core|Use `dvc push`"
)


class Stream(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> int:
        """Take whole lines."""

    def flush(self) -> None:
        """Show what was taken."""


class Screen:
    """Writes lines to `stream`; several stages may share it."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._gone = False

    def say(self, *lines: str) -> None:
        """Write lines at once."""
        with self._lock:
            if self._gone:
                return
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                self._gone = True

    @contextmanager
    def follow(self, log: Path, name: str) -> Iterator[None]:
        """Show what is appended to `log` from now on until the block ends."""
        done = threading.Event()
        with log.open("rb") as stream:
            stream.seek(0, 2)
            thread = threading.Thread(target=self._follow, args=(stream, name, done), name=f"screen-{name}", daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()

    def _follow(self, stream: BinaryIO, name: str, done: threading.Event) -> None:
        rest = b""
        shown_progress = 0.0
        while True:
            last_look = done.wait(LOOK_SECONDS)
            *lines, rest = (rest + stream.read()).split(b"\n")
            shown = [clean(line) for line in lines]
            shown = [line for line in shown if line and not HINTS.match(line.lstrip())]
            if len(shown) > BURST_LINES:
                shown = [f"({len(shown) - BURST_LINES} lines are in the log only)", *shown[-BURST_LINES:]]
            # A progress bar rewrites its line with carriage returns and ends it much later.
            if not shown and b"\r" in rest and time.monotonic() - shown_progress > PROGRESS_SECONDS:
                shown_progress = time.monotonic()
                shown = [clean(rest.rstrip(b"\r"))]
            if b"\r" in rest:
                rest = b"\r" + rest.rstrip(b"\r").rpartition(b"\r")[2]
            self.say(*(f"{name:>9} | {line}" for line in shown if line))
            if last_look:
                return
