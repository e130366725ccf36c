"""Prefect's server. That of one run serves a free port of the loopback, stores its database in the checkout and ends with the run.

`python -m flows.server FD` serves on a socket that the parent has bound, so that no other process can take the port in between.
`python -m flows.server HOST PORT` is the service of `mmalign up`. Both stand behind the same door, which asks for a password.
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
from secrets import token_urlsafe

from components.checkout import Checkout
from components.errors import StageFault
from components.operations.services.door import HOSTS, Door
from components.operations.services.health import answers
from components.operations.services.prefect_environment import PrefectServer
from components.processes.marks import WATCHED, end_process, identity
from components.stages import command
from flows.cancellation import RunCancelled

START_SECONDS = 900.0  # a start usually takes ten seconds, a minute on a busy machine; `wait_for_server` notices an ended server at once


def own_server_of(checkout: Checkout, port: int) -> PrefectServer:
    """The server of one run of this checkout, with a password that only this run's processes have, in their environment."""
    home = checkout.state / "prefect"
    return PrefectServer(
        home,
        f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        f"http://127.0.0.1:{port}",
        f"mmalign:{token_urlsafe(24)}",
        hosts=("127.0.0.1", "localhost"),
        pages=False,  # nobody learns port and password of a server that lives as long as its run
    )


@contextmanager
def own_server(checkout: Checkout, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the length of the block, which may not answer yet. Sets PREFECT_API_URL and its client's other settings in `os.environ`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as bound, log.open("ab") as output:
        server = own_server_of(checkout, bound.getsockname()[1])
        server.make_home()
        process = subprocess.Popen(
            [*command("prefect_server"), str(bound.fileno())],
            env={**os.environ, WATCHED: identity(os.getpid()) or "", **server.server_environment()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(bound.fileno(),),
            start_new_session=True,
        )
    os.environ.update(server.client_environment())
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


def application() -> Door:
    """Prefect's API and pages behind the door, as the environment describes them."""
    from prefect.server.api.server import create_app

    return Door(create_app(final=True), os.environ[HOSTS].split(","), auth=os.environ["PREFECT_SERVER_API_AUTH_STRING"])


def serve(arguments: list[str]) -> None:
    """Serve on a bound socket until the watched process ends, or on a host's port; SIGTERM ends both."""
    import uvicorn

    if len(arguments) == 1:
        from components.processes.guard import Watchdog

        Watchdog(os.environ[WATCHED], lambda: os._exit(0))
        config = uvicorn.Config(application, factory=True, log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(arguments[0]))])
    else:
        host, port = arguments
        uvicorn.run(application, factory=True, host=host, port=int(port), lifespan="on", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    serve(sys.argv[1:])
