"""What a person is told when something went wrong, and the exit code that says whose it is to mend."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

from components.errors import StageFault, UserError

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130


def explain(error: Exception) -> int:
    """Say in one sentence on stderr what went wrong, and give the exit code. The trace of what nobody foresaw goes to a log."""
    if isinstance(error, UserError):
        _say(str(error))
        return MISTAKE
    if isinstance(error, StageFault):
        _say(str(error))
        return FAULT
    log = Path("logs") / f"fault-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    _say(f"{type(error).__name__}: {' '.join(str(error).split())}; the whole trace is in {log}")
    return FAULT


def _say(sentence: str) -> None:
    print(f"mmalign: {sentence}", file=sys.stderr)
