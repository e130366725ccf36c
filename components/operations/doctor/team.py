"""Checks of the services, their passwords and ports, deployments, and the addresses of notices."""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.operations.doctor.findings import Finding, NotChecked, ok, problem, settings_of, warning
from components.operations.services import supervision
from components.operations.services.health import healthy
from components.operations.services.ports import cure, is_free, taken
from components.operations.services.state import Addresses, addresses_file, copied_from, copy_sentence, read_addresses
from components.processes.secrets import OWNER_ONLY, Secrets, read_secrets, secrets_file, state_folder

NO_SERVICES = "this checkout has no services, and needs none"
EXITED = re.compile(r"^(\S+ \S+?),\d+ \S+ exited: (\S+) ")  # a line of supervisord's log
RESTARTS = 3  # of a service within a day that cause a warning
FAILING = frozenset({"BACKOFF", "FATAL", "EXITED", "UNKNOWN"})


def services(checkout: Checkout) -> Finding:
    """Every service runs and answers, and none restarts often."""
    original = copied_from(checkout)
    if original is not None:
        return problem(copy_sentence(checkout, original), f"rm -r {state_folder(checkout)}")
    addresses = _addresses(checkout)
    if addresses is None:
        return ok(NO_SERVICES)
    secrets = _secrets(checkout)
    states = supervision.states(checkout, secrets)
    logs = supervision.log_folder(checkout)
    if not states and all(healthy(checkout).values()):
        return ok(f"they answer, but `mmalign up` did not start them; Prefect at {addresses.prefect}, MLflow at {addresses.mlflow}")
    if not states:
        return problem("the services are down, and they hold this checkout's record", "mmalign up --detach")
    failing = [f"{name} is {state}" for name, state in states.items() if state in FAILING]
    silent = [f"{name} does not answer" for name, answers in healthy(checkout).items() if not answers]
    if failing or silent:
        first = (failing or silent)[0].split()[0]
        return problem(", ".join([*failing, *silent]), f"see {logs / first}.log; then: mmalign down && mmalign up --detach")
    running = f"{', '.join(sorted(states))} run; Prefect at {addresses.prefect}, MLflow at {addresses.mlflow}"
    often = {name: count for name, count in restarts(logs / "supervisord.log").items() if count >= RESTARTS}
    if often:
        named = ", ".join(f"{name} {count} times" for name, count in often.items())
        return warning(f"{running}; restarted within a day: {named}", f"read the reason in {logs / next(iter(often))}.log")
    return ok(running)


def passwords(checkout: Checkout) -> Finding:
    """The file of passwords exists, and only its owner can read it and its folder."""
    if _addresses(checkout) is None:
        return ok(NO_SERVICES)
    path = secrets_file(checkout)
    if not path.is_file():
        return problem(f"{path} is missing", "restore it from a backup (state/secrets.json), with mode 600")
    for private, mode in ((path, "600"), (path.parent, "700")):
        if private.stat().st_mode & OWNER_ONLY:
            return problem(f"others can read {private}", f"chmod {mode} {private}; and if others use this machine, set new passwords")
    return ok("only you can read them")


def ports(checkout: Checkout) -> Finding:
    """The services use their ports, or the ports are free while the services are down."""
    addresses = _addresses(checkout)
    settings = settings_of(checkout).services
    wanted = {
        "prefect": settings.prefect_port or (addresses.prefect_port if addresses else 0),
        "mlflow": settings.mlflow_port or (addresses.mlflow_port if addresses else 0),
        "postgres": 0
        if addresses and addresses.external_database
        else settings.postgres_port or (addresses.postgres_port if addresses else 0),
    }
    fixed = {name: port for name, port in wanted.items() if port}
    if not fixed:
        return ok("the first start takes free ports")
    listed = ", ".join(f"{name} {port}" for name, port in fixed.items())
    if addresses is not None and supervision.processes(checkout):
        return ok(listed)
    for name, port in fixed.items():
        if not is_free(settings.host if name != "postgres" else "127.0.0.1", port):
            return problem(taken(name, port), cure(name))
    return ok(f"{listed}, all free")


def notices(checkout: Checkout) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """apprise can read every address in MMALIGN_NOTICES. The finding shows no address, since each holds a password."""
    import apprise

    from components.operations.notices.send import addresses
    from components.processes.redaction import NOTICES

    receivers = addresses()
    if not receivers:
        return ok(f"{NOTICES} is not set: notices only go to logs/notices.jsonl")
    # apprise's message about an unreadable address contains the address.
    with apprise.LogCapture(level=logging.CRITICAL):  # type: ignore[no-untyped-call]
        wrong = [number for number, address in enumerate(receivers, start=1) if apprise.Apprise.instantiate(address) is None]
    if wrong:
        numbers = ", ".join(str(number) for number in wrong)
        return problem(
            f"apprise can't read number {numbers} of the {len(receivers)} addresses in {NOTICES}",
            "write it in a form of apprise's list of services",
        )
    return ok(f"{len(receivers)} address{'es' if len(receivers) != 1 else ''} in {NOTICES}")


def restarts(log: Path, within: timedelta = timedelta(days=1)) -> dict[str, int]:
    """How often each service ended unexpectedly, by supervisord's log."""
    counts: dict[str, int] = {}
    since = datetime.now() - within  # noqa: DTZ005 -- supervisord writes this machine's time
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        ended = EXITED.match(line)
        if ended and datetime.strptime(ended[1], "%Y-%m-%d %H:%M:%S") > since:  # noqa: DTZ007
            counts[ended[2]] = counts.get(ended[2], 0) + 1
    return counts


def _addresses(checkout: Checkout) -> Addresses | None:
    try:
        return read_addresses(checkout)
    except (ValueError, TypeError) as error:
        raise NotChecked(f"{addresses_file(checkout)} is damaged") from error


def _secrets(checkout: Checkout) -> Secrets:
    try:
        return read_secrets(checkout)
    except UserError as error:
        raise NotChecked("the passwords can't be read") from error
