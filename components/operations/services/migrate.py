"""Migrates the databases' tables to the installed versions of Prefect and MLflow, while no server uses them.

Prefect's server also migrates its tables when it starts. MLflow's server refuses to start on many older tables.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.operations.environment import QUIET
from components.operations.services import postgres, supervision, temporary_postgres
from components.operations.services.state import database_url, read_addresses
from components.processes.secrets import read_secrets, state_folder

# MLflow's own commands. The address comes by the environment, since every user can read a command line and the password in it.
MLFLOW = "import os; from mlflow.db import commands; commands(['upgrade', os.environ['MMALIGN_MIGRATED']])"
MLFLOW_AUTH = "import os; from mlflow.server.auth.db.cli import commands; commands(['upgrade', '--url', os.environ['MMALIGN_MIGRATED']])"


def migrate(checkout: Checkout, log: Callable[[str], None]) -> None:
    """Migrate the record of the checkout. Raises UserError while its services run, StageFault with the message of a failed migration."""
    addresses = read_addresses(checkout)
    if addresses is None:
        if not checkout.mlflow_database.is_file():
            raise UserError(f"{checkout.root} has no record yet, so there is nothing to migrate")
        _mlflow(MLFLOW, f"sqlite:///{checkout.root / 'mlflow.db'}", "mlflow.db")
        log("migrated mlflow.db to the installed MLflow")
        return
    if supervision.processes(checkout):
        raise UserError("the services run: take a backup with `mmalign backup`, end them with `mmalign down`, and migrate then")
    secrets = read_secrets(checkout)
    with temporary_postgres.database(checkout, state_folder(checkout), addresses, secrets):
        postgres.make_databases(addresses, secrets)
        _prefect(checkout, database_url(addresses, secrets, "prefect", "postgresql+asyncpg"))
        log("migrated Prefect's tables to the installed version")
        _mlflow(MLFLOW, database_url(addresses, secrets, "mlflow", "postgresql+psycopg2"), "mlflow")
        _mlflow(MLFLOW_AUTH, database_url(addresses, secrets, "mlflow_auth", "postgresql+psycopg2"), "mlflow_auth")
        log("migrated MLflow's tables to the installed version")


def _prefect(checkout: Checkout, url: str) -> None:
    home = state_folder(checkout) / "prefect"
    environment = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
    }
    _run([sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"], environment, "prefect")


def _mlflow(code: str, url: str, database: str) -> None:
    _run([sys.executable, "-c", code], {"MMALIGN_MIGRATED": url, "MLFLOW_TRACKING_URI": ""}, database)


def _run(command: list[str], environment: dict[str, str], database: str) -> None:
    completed = subprocess.run(
        command, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True, errors="replace", check=False
    )
    if completed.returncode == 0:
        return
    from components.processes.redaction import redactor

    message = " ".join((completed.stderr.strip() or completed.stdout.strip()).splitlines()[-3:])[-400:]
    raise StageFault(
        f"the migration of database {database} failed: {redactor(Checkout(Path.cwd())).clean(message)}; restore the backup with the earlier version"
    )
