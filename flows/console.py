"""Shows people what running stages do: new lines of their logs, throttled, each after the stage's name.

A closed terminal must not end a run, so a failed write only silences the console.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from components.printable import printable
from components.processes.log_lines import clean

PROGRESS_SECONDS = 5.0  # at most one line of a progress bar in this time
BURST_LINES = 20  # at most so many lines a poll; a count replaces the rest
POLL_SECONDS = 0.5
# DVC's hints for people at a prompt. Here they would come six times a run; the log has them.
HINTS = re.compile(
    r"(Generating|Updating) lock file|To track the changes with git|git add |To enable auto staging|dvc config core|Use `dvc push`"
)


class Stream(Protocol):
    """The target of a console's lines."""

    def write(self, text: str, /) -> int:
        """Take whole lines."""

    def flush(self) -> None:
        """Show all lines taken so far."""


class LoggerStream:
    """A stream whose lines go to a logger, such as a flow run's."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def write(self, text: str) -> int:
        """Log each line."""
        for line in text.splitlines():
            self._logger.info(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the logger takes each line at once."""


class Console:
    """Writes lines to `stream`; several stages may share it."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._closed = False

    def print(self, *lines: str) -> None:
        """Write lines at once."""
        with self._lock:
            if self._closed:
                return
            try:
                self._stream.write("".join(f"{printable(line)}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                self._closed = True

    @contextmanager
    def follow(self, log: Path, name: str) -> Iterator[None]:
        """Show the lines that are appended to `log` until the block ends."""
        ended = threading.Event()
        with log.open("rb") as stream:
            stream.seek(0, 2)
            thread = threading.Thread(target=self._follow, args=(stream, name, ended), name=f"console-{name}", daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()

    def _follow(self, stream: BinaryIO, name: str, ended: threading.Event) -> None:
        rest = b""
        shown_progress = 0.0
        while True:
            last_poll = ended.wait(POLL_SECONDS)
            *lines, rest = (rest + stream.read()).split(b"\n")
            shown = [clean(line) for line in lines]
            shown = [line for line in shown if line and not HINTS.match(line.lstrip())]
            if len(shown) > BURST_LINES:
                shown = [f"({len(shown) - BURST_LINES} lines more in the log)", *shown[-BURST_LINES:]]
            # A progress bar rewrites its line with carriage returns and ends it much later.
            if not shown and b"\r" in rest and time.monotonic() - shown_progress > PROGRESS_SECONDS:
                shown_progress = time.monotonic()
                shown = [clean(rest.rstrip(b"\r"))]
            if b"\r" in rest:
                rest = b"\r" + rest.rstrip(b"\r").rpartition(b"\r")[2]
            self.print(*(f"{name:>9} | {line}" for line in shown if line))
            if last_poll:
                return
