"""What a person is told when something went wrong, and the exit code that says whose it is to mend.

The process that started this one may have asked for it in a file too (components/processes/outcome.py): there stands the kind, which decides on
another try.
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
    """Say in one sentence on stderr what went wrong, and give the exit code. The trace of what nobody foresaw goes to a log."""
    kind = fault_kind(error)
    if isinstance(error, KeyboardInterrupt):
        return _end(kind, "interrupted", INTERRUPTED)
    if isinstance(error, Cancelled):
        return _end(kind, str(error), INTERRUPTED)
    if isinstance(error, UserError | StageFault):
        return _end(kind, str(error), MISTAKE if isinstance(error, UserError) else FAULT, error.stage, error.log)
    log = Path("logs") / f"fault-{time.strftime('%Y%m%d-%H%M%S')}.log"
    said = sentence_of(error)
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as unwritable:
        return _end(kind, f"{said}; its trace could not be written: {unwritable}", FAULT)
    return _end(kind, f"{said}; the whole trace is in {log}", FAULT, log=log)


def tell(kind: FaultKind, sentence: str, stage: str | None = None, log: Path | None = None) -> None:
    """Tell the process that started this one how it ended, where it asked, and no secret with it.

    On a full disk that can't be: whoever reads takes a failure without a word for one of infrastructure.
    """
    from components.processes.outcome import RunOutcome, asked, tell_outcome
    from components.processes.redaction import redactor

    if not asked():
        return
    try:
        tell_outcome(RunOutcome(kind, redactor(Path.cwd()).clean(sentence), stage, None if log is None else str(log)))
    except OSError as error:
        print(f"mmalign: how this ended could not be written down: {error}", file=sys.stderr)


def _end(kind: FaultKind, sentence: str, code: int, stage: str | None = None, log: Path | None = None) -> int:
    print(f"mmalign: {sentence}", file=sys.stderr)
    tell(kind, sentence, stage, log)
    return code
