"""The outcome of a command for its parent process: one JSON file, named by MMALIGN_OUTCOME, written atomically."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from components.files import read_json, write_json

OUTCOME = "MMALIGN_OUTCOME"
Kind = Literal["ok", "mistake", "training", "infrastructure", "cancelled", "fault"]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. `kind` says who must act, and whether a retry can help."""

    kind: Kind
    sentence: str = ""
    stage: str | None = None
    log: str | None = None


def is_requested() -> bool:
    """Whether the parent process requested an outcome."""
    return bool(os.environ.get(OUTCOME))


def write_outcome(outcome: RunOutcome) -> None:
    """Write the outcome to the file that the parent process named. Does nothing where it named none."""
    path = os.environ.get(OUTCOME)
    if path:
        write_json(Path(path), asdict(outcome))


def read_outcome(path: Path, returncode: int) -> RunOutcome:
    """The outcome that a child wrote, else one by its exit code. A signal, or a failure without an outcome, counts as infrastructure."""
    if path.is_file():
        return RunOutcome(**read_json(path))
    if returncode == 0:
        return RunOutcome("ok")
    how = f"was ended by signal {-returncode}" if returncode < 0 else f"ended with code {returncode} and wrote no outcome"
    return RunOutcome("infrastructure", f"the run {how}")
