"""How a command ended, told to the process that started it: a file that MMALIGN_OUTCOME names, written once, whole."""

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
    """How a run ended. `kind` says whose it is to mend, and whether trying again can help."""

    kind: Kind
    sentence: str = ""
    stage: str | None = None
    log: str | None = None


def asked() -> bool:
    """Whether the process that started this one wants to be told."""
    return bool(os.environ.get(OUTCOME))


def tell_outcome(outcome: RunOutcome) -> None:
    """Write the outcome where this process was asked to; nothing where it was not."""
    path = os.environ.get(OUTCOME)
    if path:
        write_json(Path(path), asdict(outcome))


def read_outcome(path: Path, returncode: int) -> RunOutcome:
    """What a child told, else what its exit code says: one that a signal ended, or that said nothing of its failure, met the machine."""
    if path.is_file():
        return RunOutcome(**read_json(path))
    if returncode == 0:
        return RunOutcome("ok")
    how = f"was ended by signal {-returncode}" if returncode < 0 else f"ended with code {returncode} and no word"
    return RunOutcome("infrastructure", f"the run {how}")
