"""What stands in the place of the first `mmalign up` where each service has a container of its own: `python -m components.operations.services.bootstrap ROOT`.

Containers share one network, so that the services find each other on the loopback, and the state folder. Passwords come from the environment
and not from here, since PostgreSQL's container needs one of them too. Again does no harm; a password that has changed is written down.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from secrets import token_urlsafe

from components.errors import UserError
from components.files import read_json, write_json
from components.operations.services.import_sqlite import IMPORTED
from components.operations.services.state import Addresses, addresses_file, require_passwords
from components.operations.services.up import carry
from components.processes.secrets import Secrets, secrets_file, state_folder

HOST = "0.0.0.0"  # noqa: S104 -- of the container; which of the machine's addresses lead to it is the container engine's to say
PORTS = {"prefect": 4200, "mlflow": 5000, "postgres": 5432}
PASSWORDS = {"prefect": "MMALIGN_PREFECT_PASSWORD", "mlflow_password": "MMALIGN_MLFLOW_PASSWORD"}


def settle(root: Path) -> None:
    """Write addresses and passwords of the containers, and carry the checkout's record over. UserError where a password is missing."""
    if "DATABASE_URL" not in os.environ:
        raise UserError("DATABASE_URL is not set: it names the database of the other container")
    given = {name: os.environ.get(variable, "") for name, variable in PASSWORDS.items()}
    path = secrets_file(root)
    before = read_json(path) if path.is_file() else {}
    secrets = Secrets(
        postgres=before.get("postgres") or token_urlsafe(24),  # of a database of our own, which there is none of here
        mlflow_user="admin",
        mlflow_key=before.get("mlflow_key") or token_urlsafe(32),
        supervisor=before.get("supervisor") or token_urlsafe(24),
        **given,
    )
    require_passwords(root, secrets, HOST)
    state_folder(root).mkdir(parents=True, exist_ok=True)
    state_folder(root).chmod(0o700)
    old = os.umask(0o077)
    try:
        write_json(path, asdict(secrets))
    finally:
        os.umask(old)
    addresses = Addresses(HOST, PORTS["prefect"], PORTS["mlflow"], PORTS["postgres"], external_database=True)
    write_json(addresses_file(root), asdict(addresses))
    if not (state_folder(root) / IMPORTED).is_file():
        carry(root, addresses, lambda text: print(text, flush=True))


if __name__ == "__main__":
    from components.processes.faults import explain

    try:
        settle(Path(sys.argv[1]).resolve())
    except Exception as error:  # noqa: BLE001 -- the last resort: a sentence to the person
        sys.exit(explain(error))
