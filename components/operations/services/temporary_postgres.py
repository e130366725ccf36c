"""Runs PostgreSQL for the length of a block, for work that needs the database and no other service."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.checkout import Checkout
from components.errors import StageFault
from components.operations.services import postgres
from components.operations.services.programs import wait_for
from components.operations.services.state import Addresses
from components.processes.marks import SERVICE_MARK, checkout_mark
from components.processes.secrets import Secrets

START_SECONDS = 60.0
STOP_SECONDS = 60.0


@contextmanager
def database(checkout: Checkout, state: Path, addresses: Addresses, secrets: Secrets) -> Iterator[None]:
    """The database of `state` answers within the block: the server of DATABASE_URL, else our own, which this creates, starts and ends.

    Our server carries the mark of `checkout`, so that the next command can end it after a kill. Raises StageFault where the
    database does not answer.
    """
    if addresses.external_database:
        wait_for("DATABASE_URL", lambda: postgres.answers(addresses, secrets), START_SECONDS)
        yield
        return
    postgres.initialize(state, secrets)
    log = state / "logs" / "postgres.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            postgres.server_command(state, addresses.postgres_port),
            env={**os.environ, SERVICE_MARK: checkout_mark(checkout)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for("PostgreSQL", lambda: _alive(process, log) and postgres.answers(addresses, secrets), START_SECONDS)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast and clean end
        process.wait(STOP_SECONDS)


def _alive(process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        raise StageFault(f"PostgreSQL ended with code {process.returncode}; its log: {log}")
    return True
