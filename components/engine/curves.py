"""The curves of a run: JSON lines, one object a step, written by rank 0 and followed by the stage that launched it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from components.files import read_json

CURVES = "curves.jsonl"
PLAN = "plan.json"
RATE_STEPS = 20  # the latest steps, over which the rate is taken


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
        self._shown: tuple[int, float] = (0, 0.0)  # step, and when

    def poll(self, last: bool = False) -> None:
        """Read what is new and show it, if it is time to. `last` shows the final state whatever the time."""
        now = time.monotonic()
        if not last and now - self._shown[1] < (0.5 if self.terminal else self.every):
            return
        if not (self.folder / PLAN).is_file() or not (self.folder / CURVES).is_file():
            return
        text = (self.folder / CURVES).read_text(encoding="utf-8")
        records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()[-RATE_STEPS:]]
        if not records or records[-1]["step"] == self._shown[0]:
            return
        self._shown = (records[-1]["step"], now)
        self._show(records, int(read_json(self.folder / PLAN)["steps"]))

    def _show(self, records: list[dict[str, Any]], total: int) -> None:
        step, loss = records[-1]["step"], records[-1]["loss"]
        rate = len(records) / sum(record["seconds"] for record in records)
        line = f"{self.label}: step {step}/{total}, loss {loss:.4f}, {rate:.2f} steps/s, {_duration((total - step) / rate)} left"
        sys.stdout.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        sys.stdout.flush()

    def end(self) -> None:
        """Leave the rewritten line."""
        if self.terminal and self._shown[0]:
            sys.stdout.write("\n")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
