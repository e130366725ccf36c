"""Lines of a stage's log as a person would see them: without control sequences, and of a progress bar its last state."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

TAIL_BYTES = 200_000  # the last lines of a log are looked for in its last so many bytes
LINE_CHARACTERS = 400
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
PERCENT = re.compile(r"(\d{1,3})%\|")  # as tqdm writes it


def clean(line: bytes) -> str:
    """What a terminal would leave of a line: the text after the last carriage return, without control sequences."""
    return CONTROL.sub("", line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")).rstrip()[:LINE_CHARACTERS]


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log, cleaned."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return [text for text in (clean(line) for line in deque(stream, maxlen=count)) if text]


def last_share(log: Path) -> tuple[float, str] | None:
    """The share done (0 to 1) by the newest progress bar in a log, and its line; None where there is none."""
    for line in reversed(last_lines(log, 50)):
        found = PERCENT.search(line)
        if found:
            return min(int(found[1]), 100) / 100, line.strip()
    return None
