"""Prefect's server for one run: it serves a free port of the loopback, stores its database in the checkout and ends with the run.

`python -m flows.server FD` serves on a socket that the parent has bound, so that no other process can take the port in between.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.checkout import Checkout
from components.errors import StageFault
from components.operations.services.health import answers
from components.processes.marks import WATCHED, end_process, identity
from components.stages import command
from flows.cancellation import RunCancelled

START_SECONDS = 900.0  # a start usually takes ten seconds, a minute on a busy machine; `wait_for_server` notices an ended server at once


def own_server_environment(checkout: Checkout) -> dict[str, str]:
    """Settings of a Prefect that belongs to this checkout, for its server and for the flow."""
    home = checkout.state / "prefect"
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # none are used, and it takes seconds
    }


@contextmanager
def own_server(checkout: Checkout, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the length of the block, which may not answer yet. Sets PREFECT_API_URL and its other settings in `os.environ`."""
    os.environ.update(own_server_environment(checkout))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as bound, log.open("ab") as output:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/api"
        process = subprocess.Popen(
            [*command("prefect_server"), str(bound.fileno())],
            env={**os.environ, WATCHED: identity(os.getpid()) or "", "PREFECT_API_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(bound.fileno(),),
            start_new_session=True,
        )
    os.environ["PREFECT_API_URL"] = url
    try:
        yield process
    finally:
        end_process(process)


def wait_for_server(process: subprocess.Popen[bytes], log: Path, cancel: threading.Event) -> None:
    """Wait until the server answers. Raises StageFault when it has ended or is too slow, RunCancelled when `cancel` is set."""
    url = os.environ["PREFECT_API_URL"]
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if cancel.is_set():
            raise RunCancelled("the run was cancelled before it began")
        if answers(f"{url}/health"):
            return
        time.sleep(0.2)
    why = "ended" if process.poll() is not None else f"did not answer within {START_SECONDS:.0f} seconds"
    raise StageFault(f"Prefect's server {why}; its log: {log}")


def serve(descriptor: int) -> None:
    """Serve Prefect's API and pages on a bound socket until the watched process ends or SIGTERM comes."""
    from components.processes.guard import Watchdog

    Watchdog(os.environ[WATCHED], lambda: os._exit(0))
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="warning", lifespan="on", timeout_graceful_shutdown=3
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
