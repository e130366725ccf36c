"""The rows of a study: one a training, in a file to which each is appended as it ends, so that a stopped study goes on where it was."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a study so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_missing(name: str, path: Path, wanted: Sequence[Row], train: Callable[[Row], Row]) -> list[Row]:
    """Train what is missing of `wanted`, in its order, and say how long the rest takes; all rows that were wanted.

    A wanted row holds what names a training; `train` returns its measures.
    """
    missing = [row for row in wanted if not any(_names(row, present) for present in read(path))]
    began = time.monotonic()
    for number, row in enumerate(missing):
        line = json.dumps(row | train(row))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            stream.write(line + "\n")
        rate = (time.monotonic() - began) / (number + 1)
        left = (len(missing) - number - 1) * rate / 60
        print(f"{name}: {number + 1} of {len(missing)} runs, {rate:.0f} s a run, {left:.0f} min left", file=sys.stderr, flush=True)
    return [present for present in read(path) if any(_names(row, present) for row in wanted)]


def _names(row: Row, present: Row) -> bool:
    return row.items() <= present.items()
