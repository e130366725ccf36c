"""Lines of a stage's log as a terminal shows them: without control sequences, a progress bar in its last state."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

from components.printable import printable

TAIL_BYTES = 200_000  # of a log's end, in which its last lines are sought
LINE_CHARACTERS = 400
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colors and moves of a progress bar
PERCENT = re.compile(r"(\d{1,3})%\|")  # tqdm's format


def clean(line: bytes) -> str:
    """The text of a line after its last carriage return, without colors; other control characters as their codes."""
    return printable(CONTROL.sub("", line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")).rstrip())[:LINE_CHARACTERS]


def last_lines(log: Path, count: int) -> list[str]:
    """The last `count` lines of a log, cleaned and without empty ones."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return [text for text in (clean(line) for line in deque(stream, maxlen=count)) if text]


def last_share(log: Path) -> tuple[float, str] | None:
    """The share (0 to 1) that the newest progress bar in a log shows, and its line; None without a progress bar."""
    for line in reversed(last_lines(log, 50)):
        percent = PERCENT.search(line)
        if percent:
            return min(int(percent[1]), 100) / 100, line.strip()
    return None
