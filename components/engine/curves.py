"""The curves of a run: JSON lines, one object a step, written by rank 0 and followed by the stage that launched it.

The stage shows the progress, and hands new points to its recorder while training runs.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.engine.recorder import NullRecorder, Point, Recorder
from components.files import read_json

CURVES = "curves.jsonl"
PLAN = "plan.json"
RATE_STEPS = 20  # the latest steps, over which the rate is taken
LAST_STEPS = 10  # over which the closing metrics of a run are averaged
RECORD_SECONDS = 15.0  # between two writes of new points to the recorder


class CurveFile:
    """Appends to a curves file. Lines of steps after `keep` are dropped first: a resumed run takes those steps again."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        retained = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= keep]
        # Not through a temporary file: what a kill here loses is the record of steps that a checkpoint has behind it, no weight.
        path.write_text("".join(retained), encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8")

    def append(self, record: dict[str, float | int | None]) -> None:
        """Write one step and hand it to the system, so that a kill of this process does not lose it."""
        self._stream.write(json.dumps(record, allow_nan=False) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Wait until what was appended is on the disk."""
        os.fsync(self._stream.fileno())


class Follower:
    """Follows a run whose curves grow: shows its progress and records its points, each once.

    Progress is a line that is rewritten on a terminal, else one line in `every` seconds.
    """

    def __init__(self, folder: Path, label: str, every: float = 10.0, recorder: Recorder | None = None) -> None:
        self.folder = folder
        self.label = label
        self.every = every
        self.recorder: Recorder = recorder or NullRecorder()
        self.terminal = sys.stdout.isatty()
        self._shown: tuple[int, float] = (0, 0.0)  # step, and when
        self._recorded: tuple[int, float] = (0, time.monotonic())  # bytes of the curves file, and when

    def poll(self, last: bool = False) -> None:
        """Read what is new, show and record it, if it is time to. `last` does both whatever the time."""
        now = time.monotonic()
        shows = last or now - self._shown[1] >= (0.5 if self.terminal else self.every)
        records = last or now - self._recorded[1] >= RECORD_SECONDS
        # Until rank 0 has written the plan, the file may hold steps that a resumed run takes again.
        if not (shows or records) or not (self.folder / PLAN).is_file() or not (self.folder / CURVES).is_file():
            return
        content = (self.folder / CURVES).read_bytes()
        content = content[: content.rfind(b"\n") + 1]
        if shows:
            self._show([json.loads(line) for line in content.splitlines()[-RATE_STEPS:]], now)
        if records:
            self._record(content, now)

    def _record(self, content: bytes, now: float) -> None:
        new = content[self._recorded[0] :]
        self._recorded = (len(content), now)
        points = [point for line in new.splitlines() for point in points_of(json.loads(line))]
        if points:
            self.recorder.points(points)

    def _show(self, records: list[dict[str, Any]], now: float) -> None:
        if not records or records[-1]["step"] == self._shown[0]:
            return
        self._shown = (records[-1]["step"], now)
        total = int(read_json(self.folder / PLAN)["steps"])
        step, loss = records[-1]["step"], records[-1]["loss"]
        rate = len(records) / sum(record["seconds"] for record in records)
        line = f"{self.label}: step {step}/{total}, loss {loss:.4f}, {rate:.2f} steps/s, {_duration((total - step) / rate)} left"
        sys.stdout.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        sys.stdout.flush()

    def end(self) -> None:
        """Leave the rewritten line."""
        if self.terminal and self._shown[0]:
            sys.stdout.write("\n")


def points_of(record: dict[str, Any]) -> Iterator[Point]:
    """(name, value, step) of every finite number in a line of the curves."""
    for name, value in record.items():
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value), int(record["step"])


def last_metrics(curves: Path, *names: str) -> dict[str, float | int | None]:
    """The mean over the last steps of each named metric, None where it was never logged."""
    records = [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()[-LAST_STEPS:]]
    means: dict[str, float | int | None] = {}
    for name in names:
        values = [record[name] for record in records if record.get(name) is not None]
        means[name.replace("/", ".")] = sum(values) / len(values) if values else None
    return means


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
