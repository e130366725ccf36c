"""Bringing the services of a checkout up, and down."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.config.services import ServicesSettings
from components.errors import StageFault, UserError
from components.operations.services import postgres, supervision
from components.operations.services.alone import database
from components.operations.services.carry import CARRIED, carry_record
from components.operations.services.flow_runs import cancel_all
from components.operations.services.health import healthy
from components.operations.services.state import (
    Addresses,
    read_addresses,
    read_secrets,
    require_passwords,
    secrets_file,
    settle_addresses,
    settle_secrets,
    state_folder,
)

START_SECONDS = 600.0  # until all answer: half a minute is usual, the first time on a busy machine takes minutes
FAILING_LOOKS = 20  # half a second apart, at a service that has ended and waits to be started again: it will not come up
SILENT = ("worker", "sentinel")  # services without an address: they count as up while they run
CANCEL_SECONDS = 45.0  # that runs under way have to end
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True)
class Running:
    """Services that answer. `supervisor` is None where they ran before."""

    addresses: Addresses
    supervisor: subprocess.Popen[bytes] | None
    carried: dict[str, int]


def bring_up(root: Path, settings: ServicesSettings, say: Callable[[str], None]) -> Running:
    """Start what is not running and wait until all answer.

    Raises UserError for settings that can't be, StageFault with the log of a service that does not come up.
    """
    addresses = read_addresses(root)
    if addresses is not None and supervision.states(root, read_secrets(root)):
        _wait(root, None, say)
        return Running(addresses, None, {})
    if supervision.processes(root):
        say("ending what an earlier start has left behind")
        supervision.stop(root, None)
    kept = settle_secrets(root)
    addresses = settle_addresses(root, settings)
    if addresses.host not in LOOPBACK:
        require_passwords(root, kept, addresses.host)
        say(f"the servers answer on {addresses.host}: passwords go over the wire unless TLS stands before them")
    carried = carry(root, addresses, say)
    supervisor = supervision.start(root, addresses, kept, settings)
    try:
        _wait(root, supervisor, say)
    except BaseException:
        supervision.stop(root, kept)
        raise
    return Running(addresses, supervisor, carried)


def bring_down(root: Path) -> int:
    """End all services; the number of processes that had to be killed. Raises UserError where the checkout has none.

    Runs under way are cancelled first: merely killed, they would be started again when the services are back.
    """
    if read_addresses(root) is None:
        raise UserError(f"{root} has no services: `mmalign up` starts them")
    cancel_all(root, CANCEL_SECONDS)
    return supervision.stop(root, read_secrets(root) if secrets_file(root).is_file() else None)


def carry(root: Path, addresses: Addresses, say: Callable[[str], None]) -> dict[str, int]:
    """The first start brings the checkout's own record along, while nothing else uses the database."""
    if (state_folder(root) / CARRIED).is_file():
        return {}
    kept = read_secrets(root)
    with database(root, state_folder(root), addresses, kept):
        postgres.make_databases(addresses, kept)
        counts = carry_record(root, addresses, kept)
    if counts.get("runs"):
        versions = counts.get("model_versions", 0)
        say(f"carried over from mlflow.db: {counts['runs']} runs, {versions} model versions (the file stays as it was)")
    return counts


def _wait(root: Path, supervisor: subprocess.Popen[bytes] | None, say: Callable[[str], None]) -> None:
    kept = read_secrets(root)
    until = time.monotonic() + START_SECONDS
    said: set[str] = set()
    failing: Counter[str] = Counter()
    while True:
        states = supervision.states(root, kept)
        failing.update(name for name, state in states.items() if state in {"BACKOFF", "FATAL"})
        found = healthy(root)
        up = {name for name, answers in found.items() if answers} | {name for name in SILENT if states.get(name) == "RUNNING"}
        for name in sorted(up - said):
            say(f"{name} runs" if name in SILENT else f"{name} answers")
        said |= up
        if len(up) == len(found) + len(SILENT):
            return
        fatal = [name for name, looks in failing.items() if looks > FAILING_LOOKS]
        if fatal or time.monotonic() > until or (supervisor is not None and supervisor.poll() is not None):
            name = (fatal or sorted({*found, *SILENT} - up))[0]
            log = supervision.log_folder(root) / f"{name}.log"
            raise StageFault(f"{name} did not come up; its log: {log}")
        time.sleep(0.5)
