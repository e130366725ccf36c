"""What `mmalign up` keeps between starts: addresses and ports, passwords, data of the database, logs.

All of it lies in the state folder (`.mmalign/services`, or `services` in the folder that MMALIGN_STATE names). Addresses are in services.json;
passwords are made once, in secrets.json, which only its owner can read.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from components.errors import UserError
from components.files import read_json, write_json

if TYPE_CHECKING:
    from components.config.services import ServicesSettings

STATE = "MMALIGN_STATE"
DEPLOYED = "deployments.json"  # in the state folder: ids of the deployments by name, written by `mmalign deploy`
OWNER_ONLY = 0o077  # bits that must not be set on the file of passwords
HEARTBEAT_SECONDS = 30
PASSWORD_CHARACTERS = 12  # at least, of each password of servers that answer beyond this machine


def state_folder(root: Path) -> Path:
    """The folder of this checkout's services."""
    named = os.environ.get(STATE)
    return (Path(named) if named else root / ".mmalign").resolve() / "services"


@dataclass(frozen=True)
class Addresses:
    """Where the services of a checkout answer. `database` is empty where Postgres is not ours but DATABASE_URL's."""

    host: str
    prefect_port: int
    mlflow_port: int
    postgres_port: int
    external_database: bool = False

    @property
    def prefect(self) -> str:
        """Prefect's page; its API lies under /api."""
        return f"http://{self.local}:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        """MLflow's page and API."""
        return f"http://{self.local}:{self.mlflow_port}"

    @property
    def local(self) -> str:
        """The name by which processes of this machine reach the services."""
        return "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 -- a comparison, no binding


@dataclass(frozen=True)
class Secrets:
    """Passwords and keys of the services."""

    postgres: str
    prefect: str
    mlflow_user: str
    mlflow_password: str
    mlflow_key: str
    supervisor: str

    @property
    def prefect_auth(self) -> str:
        """What Prefect's server and clients take as their shared string."""
        return f"mmalign:{self.prefect}"


def addresses_file(root: Path) -> Path:
    """The file that says that this checkout has services, and where."""
    return state_folder(root) / "services.json"


def secrets_file(root: Path) -> Path:
    """The file of passwords."""
    return state_folder(root) / "secrets.json"


def read_addresses(root: Path) -> Addresses | None:
    """The addresses of this checkout's services; None where `mmalign up` was never used."""
    path = addresses_file(root)
    return Addresses(**read_json(path)) if path.is_file() else None


def read_secrets(root: Path) -> Secrets:
    """The passwords. Raises UserError where the file is missing or open to others."""
    path = secrets_file(root)
    if not path.is_file():
        raise UserError(f"{path} is missing: it holds the passwords of this checkout's services; restore it from a backup")
    if path.stat().st_mode & OWNER_ONLY:
        raise UserError(f"{path} can be read by others: set its mode with `chmod 600 {path}`")
    return Secrets(**read_json(path))


def require_passwords(root: Path, kept: Secrets, host: str) -> None:
    """Raises UserError where a server that answers on `host` would have no password, or one that is soon guessed."""
    weak = [name for name, value in asdict(kept).items() if name != "mlflow_user" and len(value) < PASSWORD_CHARACTERS]
    if weak:
        raise UserError(
            f"services.host is {host}, beyond this machine, and {secrets_file(root)} has no password of {PASSWORD_CHARACTERS} characters for "
            f"{', '.join(weak)}: write one, or set services.host to 127.0.0.1"
        )


def settle_addresses(root: Path, settings: ServicesSettings) -> Addresses:
    """The addresses for a start: those of the settings, else those of the last time, else free ones. Written down."""
    before = read_addresses(root)
    taken: set[int] = set()

    def port(wanted: int, last: int | None) -> int:
        found = wanted or last or free_port(taken)
        taken.add(found)
        return found

    found = Addresses(
        settings.host,
        port(settings.prefect_port, before.prefect_port if before else None),
        port(settings.mlflow_port, before.mlflow_port if before else None),
        port(settings.postgres_port, before.postgres_port if before else None),
        external_database="DATABASE_URL" in os.environ,
    )
    if before is not None and before.external_database != found.external_database:
        where = "DATABASE_URL" if before.external_database else "the database in its state folder"
        raise UserError(
            f"the services of this checkout keep their record in {where}: start them as before, or move it with `mmalign backup`"
        )
    write_json(addresses_file(root), asdict(found))
    return found


def settle_secrets(root: Path) -> Secrets:
    """The passwords, made at the first start."""
    path = secrets_file(root)
    if not path.is_file():
        made = Secrets(
            postgres=secrets.token_urlsafe(24),
            prefect=secrets.token_urlsafe(24),
            mlflow_user="admin",
            mlflow_password=secrets.token_urlsafe(24),
            mlflow_key=secrets.token_urlsafe(32),
            supervisor=secrets.token_urlsafe(24),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        before = os.umask(0o077)
        try:
            write_json(path, asdict(made))
        finally:
            os.umask(before)
    return read_secrets(root)


def free_port(taken: set[int]) -> int:
    """A port of the loopback that nobody listens on, and that is not in `taken`."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            port = int(bound.getsockname()[1])
        if port not in taken:
            return port


def client_environment(root: Path) -> dict[str, str]:
    """What lets every process of this checkout use its services; empty where there are none."""
    addresses = read_addresses(root)
    if addresses is None:
        return {}
    kept = read_secrets(root)
    return {
        "MLFLOW_TRACKING_URI": addresses.mlflow,
        "MLFLOW_TRACKING_USERNAME": kept.mlflow_user,
        "MLFLOW_TRACKING_PASSWORD": kept.mlflow_password,
        "PREFECT_API_URL": f"{addresses.prefect}/api",
        "PREFECT_API_AUTH_STRING": kept.prefect_auth,
        "PREFECT_HOME": str(state_folder(root) / "prefect"),
        "PREFECT_PROFILES_PATH": str(state_folder(root) / "prefect" / "profiles.toml"),
        # A server or database that is away for two minutes must not end a flow.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
        "PREFECT_CLIENT_MAX_RETRIES": "12",
        # The sign of life by which a run whose process is gone is told from one that works.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    }


def database_url(addresses: Addresses, kept: Secrets, database: str, driver: str) -> str:
    """The address of one of our databases for SQLAlchemy, password included: for environments and files, never for command lines."""
    if addresses.external_database:
        return external_url(database, driver)
    return f"{driver}://postgres:{quote(kept.postgres, safe='')}@127.0.0.1:{addresses.postgres_port}/{database}"


def external_url(database: str, driver: str) -> str:
    """DATABASE_URL for one of our databases: its own name is the beginning of theirs. Raises UserError where it is not Postgres."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(os.environ["DATABASE_URL"])
    except ArgumentError as error:
        raise UserError("DATABASE_URL is not an address: write postgresql://user:password@host:5432/name") from error
    if url.get_backend_name() not in {"postgresql", "postgres"} or not url.database:
        raise UserError("DATABASE_URL must be of the form postgresql://user:password@host:5432/name")
    return url.set(drivername=driver, database=f"{url.database}_{database}").render_as_string(hide_password=False)
