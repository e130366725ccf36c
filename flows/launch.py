"""The process of `mmalign run`: starts Prefect's server where none is named, then the flow. `python -m flows.launch '{"stages": []}'`."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.printable import print_codes
from components.processes.faults import explain
from components.tracking.store import connect
from flows.cancellation import RunCancelled, cancellation
from flows.server import own_server, wait_for_server


def launch(parameters: dict[str, Any]) -> int:
    """Run the flow; returns the exit code: 0, 1 for a fault, 2 for a user's mistake, 130 when cancelled. Messages go to stderr."""
    checkout = Checkout(Path.cwd())
    log = checkout.logs / f"prefect-server-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with ExitStack() as stack:
        cancel = stack.enter_context(cancellation())
        server = None
        if "PREFECT_API_URL" not in os.environ:
            server = stack.enter_context(own_server(checkout, log))
        # The run prints its own errors; Prefect would repeat each with a trace. A server that stays up keeps its log.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        # While the server starts on one core, the other loads the run's modules.
        from prefect.exceptions import CancelledRun
        from prefect.logging.handlers import APILogHandler

        from flows.parameters import RunParameters
        from flows.pipeline_run import pipeline_run

        with suppress(Exception):  # the recorder reports a store that is away, and works around it
            connect(checkout)

        try:
            if server is not None:
                wait_for_server(server, log, cancel)
            if cancel.is_set():
                return explain(RunCancelled("the run was cancelled before it began"))
            pipeline_run(RunParameters.model_validate(parameters))
        except CancelledRun as error:
            return explain(RunCancelled(str(error)))
        except Exception as error:  # noqa: BLE001 -- the last resort: a sentence to the person, the trace to a log
            return explain(error)
        finally:
            APILogHandler().flush()  # the run's last lines, before the server that stores them ends
    return 0


if __name__ == "__main__":
    print_codes()
    sys.exit(launch(json.loads(sys.argv[1])))
