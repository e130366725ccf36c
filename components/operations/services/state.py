"""The state of the services between starts: addresses and ports, passwords, the database, logs.

The state folder is `.mmalign/services`, or `services` in the folder that MMALIGN_STATE names. services.json holds the addresses. secrets.json
holds the passwords, which are created once; only its owner can read it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING
from urllib.parse import quote

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json, write_atomic, write_json
from components.processes.secrets import STATE, Secrets, owner_only, read_secrets, secrets_file, state_folder

if TYPE_CHECKING:
    from components.config.ops import ServicesSettings

OWNER = "checkout.txt"  # in the state folder: the root of the checkout whose services these are
DEPLOYED = "deployments.json"  # in the state folder: `mmalign deploy` writes the deployments' ids by name
HEARTBEAT_SECONDS = 30
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
PASSWORD_CHARACTERS = 12  # least length of a password of servers that other machines can reach


@dataclass(frozen=True)
class Addresses:
    """The addresses of a checkout's services. `external_database` is true where DATABASE_URL names the PostgreSQL server.

    `allowed_hosts` are the settings' names of the servers, beside those in `hosts`.
    """

    host: str
    prefect_port: int
    mlflow_port: int
    postgres_port: int
    external_database: bool = False
    allowed_hosts: Sequence[str] = ()

    @property
    def hosts(self) -> list[str]:
        """The names by which requests may address the servers: those of the loopback, of the bound address, and of the settings."""
        own = [] if self.host in LOOPBACK else [os.uname().nodename]
        return list(dict.fromkeys(["127.0.0.1", "localhost", self.local, *own, *self.allowed_hosts]))

    @property
    def prefect(self) -> str:
        """The address of Prefect's page; its API lies below /api."""
        return f"http://{self.local}:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        """The address of MLflow's page and API."""
        return f"http://{self.local}:{self.mlflow_port}"

    @property
    def local(self) -> str:
        """The host name by which processes of this machine reach the services."""
        return "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 -- a comparison, no binding


def addresses_file(checkout: Checkout) -> Path:
    """The file with the addresses of this checkout's services."""
    return state_folder(checkout) / "services.json"


def read_addresses(checkout: Checkout) -> Addresses | None:
    """The addresses of this checkout's services; None where `mmalign up` never ran, and where the state is a copy of another checkout's."""
    path = addresses_file(checkout)
    return Addresses(**read_json(path)) if path.is_file() and copied_from(checkout) is None else None


def copied_from(checkout: Checkout) -> Path | None:
    """The checkout whose state folder was copied together with this one, and whose services the copy would name.

    None for a state of this checkout's own. A checkout that was moved, and one that is seen at two paths, owns its state.
    """
    owner = state_folder(checkout) / OWNER
    if STATE in os.environ or not owner.is_file():
        return None
    root = Path(owner.read_text(encoding="utf-8").rstrip("\n"))
    original = addresses_file(Checkout(root))
    if root == checkout.root.resolve() or not original.is_file() or original.samefile(addresses_file(checkout)):
        return None
    return root


def refuse_copy(checkout: Checkout) -> None:
    """Raises UserError where the state is a copy of another checkout's."""
    root = copied_from(checkout)
    if root is not None:
        raise UserError(
            f"{copy_sentence(checkout, root)}: remove it with `rm -r {state_folder(checkout)}`, then `mmalign up` starts services of this checkout"
        )


def copy_sentence(checkout: Checkout, original: Path) -> str:
    """What `copied_from` means, for people."""
    return f"{state_folder(checkout)} is a copy and names the services of {original}, so this checkout uses none of them"


def require_passwords(checkout: Checkout, secrets: Secrets, host: str) -> None:
    """Raises UserError where a server on `host` would have a missing or short password."""
    weak = [name for name, value in asdict(secrets).items() if name != "mlflow_user" and len(value) < PASSWORD_CHARACTERS]
    if weak:
        raise UserError(
            f"services.host is {host}, which other machines reach, and {secrets_file(checkout)} has no password of {PASSWORD_CHARACTERS} characters "
            f"for {', '.join(weak)}: write one, or set services.host to 127.0.0.1"
        )


def assign_addresses(checkout: Checkout, settings: ServicesSettings) -> Addresses:
    """Assign and write down the addresses of a start: from the settings, else of the last start, else free ports."""
    before = read_addresses(checkout)
    taken: set[int] = set()

    def port(wanted: int, last: int | None) -> int:
        number = wanted or last or free_port(taken)
        taken.add(number)
        return number

    addresses = Addresses(
        settings.host,
        port(settings.prefect_port, before.prefect_port if before else None),
        port(settings.mlflow_port, before.mlflow_port if before else None),
        port(settings.postgres_port, before.postgres_port if before else None),
        external_database="DATABASE_URL" in os.environ,
        allowed_hosts=settings.allowed_hosts,
    )
    if before is not None and before.external_database != addresses.external_database:
        where = "DATABASE_URL" if before.external_database else "the database in its state folder"
        raise UserError(
            f"the services of this checkout keep their record in {where}: start them as before, or move the record with `mmalign backup`"
        )
    write_json(addresses_file(checkout), asdict(addresses))
    write_atomic(state_folder(checkout) / OWNER, f"{checkout.root.resolve()}\n")
    return addresses


def create_secrets(checkout: Checkout) -> Secrets:
    """The passwords. The first start creates them."""
    if not secrets_file(checkout).is_file():
        made = Secrets(
            postgres=token_urlsafe(24),
            prefect=token_urlsafe(24),
            mlflow_user="admin",
            mlflow_password=token_urlsafe(24),
            mlflow_key=token_urlsafe(32),
            supervisor=token_urlsafe(24),
        )
        store_secrets(checkout, made)
    return read_secrets(checkout)


def store_secrets(checkout: Checkout, secrets: Secrets) -> None:
    """Write the passwords."""
    path = secrets_file(checkout)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with owner_only():
        write_json(path, asdict(secrets))


def free_port(taken: set[int]) -> int:
    """A port of the loopback without a listener, and not in `taken`."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            port = int(bound.getsockname()[1])
        if port not in taken:
            return port


def client_environment(checkout: Checkout) -> dict[str, str]:
    """The environment by which a process uses this checkout's services; empty without services."""
    addresses = read_addresses(checkout)
    if addresses is None:
        return {}
    secrets = read_secrets(checkout)
    return {
        "MLFLOW_TRACKING_URI": addresses.mlflow,
        "MLFLOW_TRACKING_USERNAME": secrets.mlflow_user,
        "MLFLOW_TRACKING_PASSWORD": secrets.mlflow_password,
        "PREFECT_API_URL": f"{addresses.prefect}/api",
        "PREFECT_API_AUTH_STRING": secrets.prefect_auth,
        "PREFECT_HOME": str(state_folder(checkout) / "prefect"),
        "PREFECT_PROFILES_PATH": str(state_folder(checkout) / "prefect" / "profiles.toml"),
        # A server or database that is silent for two minutes must not end a flow.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
        "PREFECT_CLIENT_MAX_RETRIES": "12",
        # Heartbeats distinguish a working run from one that has lost its process.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    }


def database_url(addresses: Addresses, secrets: Secrets, database: str, driver: str) -> str:
    """The address of a database for SQLAlchemy, with the password. Use it in environments and files, never on command lines."""
    if addresses.external_database:
        return external_url(database, driver)
    return f"{driver}://postgres:{quote(secrets.postgres, safe='')}@127.0.0.1:{addresses.postgres_port}/{database}"


def external_url(database: str, driver: str) -> str:
    """The address of a database on the server of DATABASE_URL, whose name prefixes the database's. Raises UserError for another kind of server."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(os.environ["DATABASE_URL"])
    except ArgumentError as error:
        raise UserError("DATABASE_URL is no address: write postgresql://user:password@host:5432/name") from error
    if url.get_backend_name() not in {"postgresql", "postgres"} or not url.database:
        raise UserError("DATABASE_URL names no PostgreSQL database: write postgresql://user:password@host:5432/name")
    return url.set(drivername=driver, database=f"{url.database}_{database}").render_as_string(hide_password=False)
