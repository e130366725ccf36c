"""The curves of a run: JSON lines, one object a step, written by rank 0 and followed by the stage that launched it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CURVES = "curves.jsonl"
PLAN = "plan.json"


class CurveFile:
    """Appends to a curves file. Lines of steps after `keep` are dropped first: a resumed run takes those steps again."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= keep]
        # Not through a temporary file: what a kill here loses is the record of steps that a checkpoint has behind it, no weight.
        path.write_text("".join(kept), encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8")

    def append(self, record: dict[str, float | int | None]) -> None:
        """Write one step and hand it to the system, so that a kill of this process does not lose it."""
        self._stream.write(json.dumps(record, allow_nan=False) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Wait until what was appended is on the disk."""
        os.fsync(self._stream.fileno())


class Follower:
    """Shows the progress of a run whose curves grow: a line that is rewritten on a terminal, else one line in `every` seconds."""

    def __init__(self, folder: Path, label: str, every: float = 10.0) -> None:
        self.folder = folder
        self.label = label
        self.every = every
        self.terminal = sys.stdout.isatty()
        self._first: tuple[int, float] | None = None
        self._shown = 0.0

    def poll(self, last: bool = False) -> None:
        """Read what is new and show it, if it is time to. `last` shows the final state whatever the time."""
        now = time.monotonic()
        if not last and now - self._shown < (0.5 if self.terminal else self.every):
            return
        path = self.folder / CURVES
        if not (self.folder / PLAN).is_file() or not path.is_file():
            return
        plan: dict[str, Any] = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        text = path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1].splitlines()
        if not complete:
            return
        record = json.loads(complete[-1])
        if self._first is None:
            self._first = (int(record["step"]), now)
        self._shown = now
        self._show(record, int(plan["steps"]), now)

    def _show(self, record: dict[str, Any], total: int, now: float) -> None:
        assert self._first is not None
        done = int(record["step"]) - self._first[0]
        rate = done / (now - self._first[1]) if done else 1.0 / float(record["seconds"])
        left = (total - int(record["step"])) / rate
        line = f"{self.label}: step {record['step']}/{total}, loss {record['loss']:.4f}, {rate:.2f} steps/s, {_duration(left)} left"
        sys.stdout.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        sys.stdout.flush()

    def end(self) -> None:
        """Leave the rewritten line."""
        if self.terminal and self._first is not None:
            sys.stdout.write("\n")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
