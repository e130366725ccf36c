"""Starts and ends the services of a checkout."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from components.checkout import Checkout
from components.config.ops import ServicesSettings
from components.errors import StageFault, UserError
from components.files import read_json
from components.operations.services import postgres, supervision
from components.operations.services.health import healthy
from components.operations.services.import_sqlite import IMPORTED, import_record
from components.operations.services.ports import require_free_ports, require_own_ports
from components.operations.services.state import (
    DEPLOYED,
    LOOPBACK,
    Addresses,
    addresses_file,
    assign_addresses,
    create_secrets,
    read_addresses,
    refuse_copy,
    require_passwords,
)
from components.operations.services.temporary_postgres import database
from components.processes.secrets import read_secrets, secrets_file, state_folder

START_SECONDS = 600.0  # until all answer: usually half a minute, but minutes at the first start on a busy machine
FAILING_CHECKS = 20  # polls, half a second apart, that find a service ended or waiting for a restart: it will not start
SILENT = ("worker", "sentinel")  # services without an address: they count as up while their process runs
FULL_MB = 100.0  # free space with which a failed start is blamed on the disk: a new database takes about as much
CANCEL_SECONDS = 45.0  # for runs under way to end


@dataclass(frozen=True)
class Running:
    """Services that answer. `supervisor` is None where they ran already; `imported` counts imported rows by table."""

    addresses: Addresses
    supervisor: subprocess.Popen[bytes] | None
    imported: dict[str, int]


def bring_up(checkout: Checkout, settings: ServicesSettings, log: Callable[[str], None]) -> Running:
    """Start the services where they do not run, and wait until all answer.

    Raises UserError for impossible settings, StageFault with the log of a service that does not start.
    """
    refuse_copy(checkout)
    addresses = read_addresses(checkout)
    if addresses is not None and supervision.states(checkout, read_secrets(checkout)):
        _wait(checkout, None, log)
        return Running(addresses, None, {})
    if supervision.processes(checkout):
        log("ending the processes of an earlier start")
        supervision.stop(checkout, None)
    first = addresses is None
    try:
        return _start(checkout, settings, log)
    except BaseException as error:
        if first:
            _forget_first_start(checkout)
        if isinstance(error, OSError | StageFault) and (free := free_mb(checkout)) < FULL_MB:
            raise StageFault(
                f"the services did not start: the disk of {state_folder(checkout)} has {free:.0f} MB free: make room, a new database takes {FULL_MB:.0f} MB"
            ) from error
        raise


def _start(checkout: Checkout, settings: ServicesSettings, log: Callable[[str], None]) -> Running:
    secrets = create_secrets(checkout)
    addresses = assign_addresses(checkout, settings)
    if addresses.host not in LOOPBACK:
        require_passwords(checkout, secrets, addresses.host)
        log(f"the servers answer on {addresses.host}: passwords travel unencrypted unless a TLS proxy protects them")
    require_free_ports(addresses)
    imported = import_existing_record(checkout, addresses, log)
    supervisor = supervision.start(checkout, addresses, secrets, settings)
    try:
        _wait(checkout, supervisor, log)
        require_own_ports(addresses, {process.pid for process in supervision.processes(checkout)})
    except BaseException:
        supervision.stop(checkout, secrets)
        raise
    return Running(addresses, supervisor, imported)


def _forget_first_start(checkout: Checkout) -> None:
    """Let the checkout be one without services after a first start that failed, so that runs go on with its own record. A record that was
    imported stays with the services."""
    imported = state_folder(checkout) / IMPORTED
    if not imported.is_file() or not read_json(imported):
        for path in (imported, addresses_file(checkout)):
            path.unlink(missing_ok=True)


def free_mb(checkout: Checkout) -> float:
    """Free space, in MB, of the disk of the state folder, or of the checkout before the first start."""
    folder = state_folder(checkout)
    return shutil.disk_usage(folder if folder.is_dir() else checkout.root).free / 1e6


def bring_down(checkout: Checkout, cancel_runs: Callable[[Checkout, float], None]) -> int:
    """End all services; returns the number of killed processes. Raises UserError where the checkout has no services.

    It cancels runs under way first, by `cancel_runs`, which gets the seconds to wait for their end. The services would restart merely killed
    runs at their next start.
    """
    refuse_copy(checkout)
    if read_addresses(checkout) is None:
        raise UserError(f"{checkout.root} has no services: `mmalign up` starts them")
    if (state_folder(checkout) / DEPLOYED).is_file():
        cancel_runs(checkout, CANCEL_SECONDS)
    return supervision.stop(checkout, read_secrets(checkout) if secrets_file(checkout).is_file() else None)


def import_existing_record(checkout: Checkout, addresses: Addresses, log: Callable[[str], None]) -> dict[str, int]:
    """At the first start, import the checkout's record while no service uses the database. Returns the rows by table."""
    if (state_folder(checkout) / IMPORTED).is_file():
        return {}
    secrets = read_secrets(checkout)
    with database(checkout, state_folder(checkout), addresses, secrets):
        postgres.make_databases(addresses, secrets)
        counts = import_record(checkout, addresses, secrets)
    if counts.get("runs"):
        versions = counts.get("model_versions", 0)
        log(f"imported from mlflow.db: {counts['runs']} runs, {versions} model versions (the file stays unchanged)")
    return counts


def _wait(checkout: Checkout, supervisor: subprocess.Popen[bytes] | None, log: Callable[[str], None]) -> None:
    secrets = read_secrets(checkout)
    until = time.monotonic() + START_SECONDS
    logged: set[str] = set()
    failing: Counter[str] = Counter()
    while True:
        states = supervision.states(checkout, secrets)
        failing.update(name for name, state in states.items() if state in {"BACKOFF", "FATAL"})
        servers = healthy(checkout)
        up = {name for name, answers in servers.items() if answers} | {name for name in SILENT if states.get(name) == "RUNNING"}
        for name in sorted(up - logged):
            log(f"{name} runs" if name in SILENT else f"{name} answers")
        logged |= up
        if len(up) == len(servers) + len(SILENT):
            return
        fatal = [name for name, checks in failing.items() if checks > FAILING_CHECKS]
        if fatal or time.monotonic() > until or (supervisor is not None and supervisor.poll() is not None):
            name = (fatal or sorted({*servers, *SILENT} - up))[0]
            logs = supervision.log_folder(checkout)
            file = logs / f"{name}.log" if (logs / f"{name}.log").is_file() else logs / "supervisord.out"
            raise StageFault(f"the service {name} did not start: read its log {file}")
        time.sleep(0.5)
