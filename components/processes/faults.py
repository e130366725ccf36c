"""What becomes of an error at the end of a command or a run: one sentence, an exit code that says who must act, and a log for the trace."""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.checkout import Checkout
from components.errors import Cancelled, StageFault, UserError
from components.printable import printable
from components.processes.fault_kinds import FaultKind, fault_kind, sentence_of
from components.processes.machine_errors import is_refused

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. `kind` says who must act, and whether a retry can help."""

    kind: FaultKind | Literal["ok"]
    sentence: str = ""
    stage: str | None = None
    log: str | None = None


def explain(error: BaseException) -> int:
    """Print one sentence about `error` to stderr and return the exit code. The trace of an unexpected error goes to a log."""
    outcome = outcome_of(error)
    print(f"mmalign: {printable(outcome.sentence)}", file=sys.stderr)
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return INTERRUPTED
    return MISTAKE if isinstance(error, UserError) or outcome.kind == "mistake" else FAULT


def outcome_of(error: BaseException) -> RunOutcome:
    """How a run ended that raised `error`. The trace of an unexpected error goes to a log in the current folder's checkout."""
    kind = fault_kind(error)
    if isinstance(error, KeyboardInterrupt):
        return RunOutcome(kind, "interrupted")
    if isinstance(error, Cancelled):
        return RunOutcome(kind, str(error))
    if isinstance(error, UserError | StageFault):
        return RunOutcome(kind, str(error), error.stage, None if error.log is None else str(error.log))
    if is_refused(error):
        return RunOutcome(kind, sentence_of(error))
    log = Checkout(Path()).logs / f"fault-{time.strftime('%Y%m%d-%H%M%S')}.log"
    sentence = sentence_of(error)
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as unwritable:
        return RunOutcome(kind, f"{sentence}; mmalign could not write the trace: {unwritable}")
    return RunOutcome(kind, f"{sentence}; the whole trace is in {log}", log=str(log))
