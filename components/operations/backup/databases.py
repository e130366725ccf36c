"""Dumps and loads databases: PostgreSQL's with pg_dump and pg_restore, mlflow.db with sqlite's backup.

Each dump is one snapshot, even while others write. Passwords reach PostgreSQL's programs by the environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.operations.backup.manifest import numbers
from components.operations.services import postgres
from components.operations.services.import_sqlite import LOCATION_COLUMNS
from components.operations.services.state import Addresses, database_url
from components.processes.marks import SERVICE_MARK, checkout_mark
from components.processes.secrets import Secrets

CHECKOUT_TAG = "mmalign.checkout"  # on runs, versions and models: the checkout's mark, which depends on its path
TAG_COLUMNS = (("tags", "key", "value"), ("model_version_tags", "key", "value"), ("logged_model_tags", "tag_key", "tag_value"))
# libpq's environment variables, by the name of the option in an address.
ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "options": "PGOPTIONS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
}


def dump_name(database: str) -> str:
    """The file of a database in a backup."""
    return f"databases/{database}.dump"


def dump(checkout: Checkout, addresses: Addresses, secrets: Secrets, database: str, target: Path) -> None:
    """Write a database to `target`. Raises StageFault with pg_dump's message."""
    _run(checkout, addresses, secrets, database, ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}"])


def load(checkout: Checkout, addresses: Addresses, secrets: Secrets, database: str, source: Path) -> None:
    """Fill an empty database from `source`, in one transaction: a fault or a kill leaves it empty."""
    command = ["pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--no-comments"]
    _run(checkout, addresses, secrets, database, [*command, "--dbname=", str(source)])


def is_empty(addresses: Addresses, secrets: Secrets, database: str) -> bool:
    """Whether a database has no table."""
    with closing(_connect(addresses, secrets, database)) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_tables where schemaname = 'public'")
        return bool(cursor.fetchone()[0] == 0)


def server_version(addresses: Addresses, secrets: Secrets) -> str:
    """PostgreSQL's version, such as 18.6."""
    import psycopg2

    with closing(psycopg2.connect(postgres.maintenance_url(addresses, secrets), connect_timeout=10)) as connection:
        return str(connection.get_parameter_status("server_version"))


def move_record(addresses: Addresses, secrets: Secrets, before: Path, after: Path) -> None:
    """Change the paths in the record of a checkout to its new folder. A second call changes nothing."""
    with closing(_connect(addresses, secrets, "mlflow")) as connection, connection, connection.cursor() as cursor:
        for statement, values in _moves(before, after, "%s"):
            cursor.execute(statement, values)


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a sqlite database while others write to it."""
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=60)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def move_sqlite_record(database: Path, before: Path, after: Path) -> None:
    """As `move_record`, for mlflow.db."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement, values in _moves(before, after, "?"):
            connection.execute(statement, values)


def sqlite_runs(database: Path) -> int:
    """The number of runs in mlflow.db; 0 where the file or its tables are missing."""
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        if connection.execute("select 1 from sqlite_master where name = 'runs'").fetchone() is None:
            return 0
        return int(connection.execute("select count(*) from runs").fetchone()[0])


def _moves(before: Path, after: Path, mark: str) -> list[tuple[str, tuple[str, ...]]]:
    """SQL statements that change the artifacts' locations and the checkout's mark; `mark` is the driver's placeholder."""
    moves: list[tuple[str, tuple[str, ...]]] = []
    prefixes = [((folder / "mlruns").as_uri(), str(folder / "mlruns")) for folder in (before, after)]
    for table, columns in LOCATION_COLUMNS.items():
        for column in columns:
            for old, new in zip(*prefixes, strict=True):
                moves.append(
                    (
                        f"update {table} set {column} = {mark} || substr({column}, {len(old) + 1}) "  # noqa: S608 -- names are MLflow's
                        f"where substr({column}, 1, {len(old)}) = {mark}",
                        (new, old),
                    )
                )
    for table, key, value in TAG_COLUMNS:
        tagged = f"update {table} set {value} = {mark} where {key} = {mark} and {value} = {mark}"  # noqa: S608 -- names are MLflow's
        moves.append((tagged, (checkout_mark(Checkout(after)), CHECKOUT_TAG, checkout_mark(Checkout(before)))))
    return moves


def _connect(addresses: Addresses, secrets: Secrets, database: str) -> Any:
    import psycopg2

    return psycopg2.connect(database_url(addresses, secrets, database, "postgresql"), connect_timeout=10)


def _run(checkout: Checkout, addresses: Addresses, secrets: Secrets, database: str, command: list[str]) -> None:
    """Run a program of PostgreSQL on a database. It carries the checkout's mark, so that leftovers of a killed command can be found."""
    from psycopg2.extensions import parse_dsn

    options = parse_dsn(database_url(addresses, secrets, database, "postgresql"))
    unknown = [key for key in options if key not in ENVIRONMENT]
    if unknown:
        raise UserError(f"DATABASE_URL has the option '{unknown[0]}', which `mmalign backup` does not support: remove it")
    environment = {ENVIRONMENT[key]: value for key, value in options.items()}
    program = _program(command[0], addresses, secrets)
    arguments = [f"--dbname={options['dbname']}" if argument == "--dbname=" else argument for argument in command[1:]]
    completed = subprocess.run(
        [program, *arguments],
        env={**os.environ, **environment, SERVICE_MARK: checkout_mark(checkout)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if completed.returncode != 0:
        message = " ".join(completed.stderr.split())[-400:]
        for secret in filter(None, (options.get("password"), secrets.postgres)):
            message = message.replace(secret, "***")
        raise StageFault(f"{command[0]} of database {options['dbname']} failed: {message}")


def _program(name: str, addresses: Addresses, secrets: Secrets) -> str:
    """The package's program. For an external server: the program on PATH, which supports TLS, if it is as new as the server."""
    packaged = str(postgres.binary(name))
    if not addresses.external_database:
        return packaged
    server = numbers(server_version(addresses, secrets))[0]
    for program in filter(None, (shutil.which(name), packaged)):
        version = re.search(r"\d+", subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout)
        if version is not None and int(version[0]) >= server:
            return program
    raise UserError(f"{name} is older than the server of DATABASE_URL: install the client programs of PostgreSQL {server}")
