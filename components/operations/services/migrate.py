"""Brings the databases' tables to the installed versions of Prefect and MLflow, while no server uses them.

Prefect's server would do its part by itself at its next start; MLflow's refuses to start on many older ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from components.errors import StageFault, UserError
from components.operations.environment import QUIET
from components.operations.services import postgres, supervision, temporary_postgres
from components.operations.services.state import database_url, read_addresses
from components.processes.secrets import read_secrets, state_folder

# MLflow's own commands; on their command lines the database's address, password included, could be seen by everybody.
MLFLOW = "import os; from mlflow.db import commands; commands(['upgrade', os.environ['MMALIGN_MIGRATED']])"
MLFLOW_AUTH = "import os; from mlflow.server.auth.db.cli import commands; commands(['upgrade', '--url', os.environ['MMALIGN_MIGRATED']])"


def migrate(root: Path, say: Callable[[str], None]) -> None:
    """Migrate the record of the checkout. UserError while its services run, StageFault with what a migration says that fails."""
    addresses = read_addresses(root)
    if addresses is None:
        if not (root / "mlflow.db").is_file():
            raise UserError(f"{root} has no record yet: there is nothing to migrate")
        _mlflow(MLFLOW, f"sqlite:///{root / 'mlflow.db'}", "mlflow.db")
        say("mlflow.db is as the installed MLflow wants it")
        return
    if supervision.processes(root):
        raise UserError("the services run: take a backup with `mmalign backup`, end them with `mmalign down`, and migrate then")
    secrets = read_secrets(root)
    with temporary_postgres.database(root, state_folder(root), addresses, secrets):
        postgres.make_databases(addresses, secrets)
        _prefect(root, database_url(addresses, secrets, "prefect", "postgresql+asyncpg"))
        say("Prefect's tables are as the installed version wants them")
        _mlflow(MLFLOW, database_url(addresses, secrets, "mlflow", "postgresql+psycopg2"), "mlflow")
        _mlflow(MLFLOW_AUTH, database_url(addresses, secrets, "mlflow_auth", "postgresql+psycopg2"), "mlflow_auth")
        say("MLflow's tables are as the installed version wants them")


def _prefect(root: Path, url: str) -> None:
    home = state_folder(root) / "prefect"
    told = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "PREFECT_HOME": str(home), "PREFECT_PROFILES_PATH": str(home / "profiles.toml")}
    _run([sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"], told, "prefect")


def _mlflow(code: str, url: str, database: str) -> None:
    _run([sys.executable, "-c", code], {"MMALIGN_MIGRATED": url, "MLFLOW_TRACKING_URI": ""}, database)


def _run(command: list[str], told: dict[str, str], database: str) -> None:
    done = subprocess.run(command, env={**os.environ, **QUIET, **told}, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    from components.processes.redaction import redactor

    said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])[-400:]
    raise StageFault(
        f"the tables of {database} could not be migrated: {redactor(Path.cwd()).clean(said)}; restore the backup with the version before"
    )
