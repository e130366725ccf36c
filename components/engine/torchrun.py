"""torchrun, with an exit code that says how the rank ended that failed first: `python -m components.engine.torchrun --standalone ...`.

torchrun itself ends with 1 whether a rank raised or was killed, and only its parent can know which.
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from components.processes.fault_kinds import SIGNALLED


def run(arguments: list[str]) -> int:
    """Run torchrun to its end: 0, 128 and the signal's number where a signal ended the first rank that failed, else that rank's exit code."""
    try:
        main(arguments)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        _, first = error.get_first_failure()
        return SIGNALLED - first.exitcode if first.exitcode < 0 else first.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
