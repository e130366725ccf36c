"""Replaces the first `mmalign up` where each service has a container: `python -m components.operations.services.bootstrap ROOT`.

The containers share the state folder and one network, so the services find each other on the loopback. Passwords come from the environment,
since PostgreSQL's container needs one of them too. A second run does no harm; it writes down changed passwords.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from secrets import token_urlsafe

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json, write_json
from components.operations.services.import_sqlite import IMPORTED
from components.operations.services.state import Addresses, addresses_file, require_passwords, store_secrets
from components.operations.services.up import import_existing_record
from components.processes.secrets import Secrets, secrets_file, state_folder

HOST = "0.0.0.0"  # noqa: S104 -- in the container; the container engine decides which addresses of the machine lead to it
PORTS = {"prefect": 4200, "mlflow": 5000, "postgres": 5432}
PASSWORDS = {"prefect": "MMALIGN_PREFECT_PASSWORD", "mlflow_password": "MMALIGN_MLFLOW_PASSWORD"}


def bootstrap(checkout: Checkout) -> None:
    """Write the containers' addresses and passwords, and import the checkout's record. Raises UserError for a missing password."""
    if "DATABASE_URL" not in os.environ:
        raise UserError("DATABASE_URL is not set: set it to the database of PostgreSQL's container")
    passwords = {name: os.environ.get(variable, "") for name, variable in PASSWORDS.items()}
    path = secrets_file(checkout)
    before = read_json(path) if path.is_file() else {}
    secrets = Secrets(
        postgres=before.get("postgres") or token_urlsafe(24),  # for our own database, which containers do not use
        mlflow_user="admin",
        mlflow_key=before.get("mlflow_key") or token_urlsafe(32),
        supervisor=before.get("supervisor") or token_urlsafe(24),
        **passwords,
    )
    require_passwords(checkout, secrets, HOST)
    store_secrets(checkout, secrets)
    allowed = checkout.settings().services.allowed_hosts
    addresses = Addresses(HOST, PORTS["prefect"], PORTS["mlflow"], PORTS["postgres"], external_database=True, allowed_hosts=allowed)
    write_json(addresses_file(checkout), asdict(addresses))
    if not (state_folder(checkout) / IMPORTED).is_file():
        import_existing_record(checkout, addresses, lambda text: print(text, flush=True))


if __name__ == "__main__":
    from components.processes.faults import explain

    try:
        bootstrap(Checkout(Path(sys.argv[1])).absolute())
    except Exception as error:  # noqa: BLE001 -- the last resort: one sentence for the person
        sys.exit(explain(error))
