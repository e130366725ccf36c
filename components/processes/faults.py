"""Prints one sentence for an error, and returns the exit code that says who must act.

The parent process may also request the outcome in a file (components/processes/outcome.py). The kind in that file decides whether the run
retries.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

from components.errors import Cancelled, StageFault, UserError
from components.processes.fault_kinds import FaultKind, fault_kind, sentence_of

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130


def explain(error: BaseException) -> int:
    """Print one sentence about `error` to stderr and return the exit code. The trace of an unexpected error goes to a log."""
    kind = fault_kind(error)
    if isinstance(error, KeyboardInterrupt):
        return _end(kind, "interrupted", INTERRUPTED)
    if isinstance(error, Cancelled):
        return _end(kind, str(error), INTERRUPTED)
    if isinstance(error, UserError | StageFault):
        return _end(kind, str(error), MISTAKE if isinstance(error, UserError) else FAULT, error.stage, error.log)
    log = Path("logs") / f"fault-{time.strftime('%Y%m%d-%H%M%S')}.log"
    sentence = sentence_of(error)
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as unwritable:
        return _end(kind, f"{sentence}; mmalign could not write the trace: {unwritable}", FAULT)
    return _end(kind, f"{sentence}; the whole trace is in {log}", FAULT, log=log)


def report_outcome(kind: FaultKind, sentence: str, stage: str | None = None, log: Path | None = None) -> None:
    """Write the outcome for the parent process, without secrets, where the parent requested it.

    On a full disk nothing can be written. The parent takes a failure without an outcome for one of infrastructure.
    """
    from components.checkout import Checkout
    from components.processes.outcome import RunOutcome, is_requested, write_outcome
    from components.processes.redaction import redactor

    if not is_requested():
        return
    try:
        write_outcome(RunOutcome(kind, redactor(Checkout(Path.cwd())).clean(sentence), stage, None if log is None else str(log)))
    except OSError as error:
        print(f"mmalign: the outcome could not be written: {error}", file=sys.stderr)


def _end(kind: FaultKind, sentence: str, code: int, stage: str | None = None, log: Path | None = None) -> int:
    print(f"mmalign: {sentence}", file=sys.stderr)
    report_outcome(kind, sentence, stage, log)
    return code
