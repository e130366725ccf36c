"""The passwords of a checkout's services, and the state folder that holds them.

`create_secrets` writes them once into secrets.json, which only its owner can read. The redactor and the services both read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json

STATE = "MMALIGN_STATE"
OWNER_ONLY = 0o077  # mode bits that secrets.json must not have


def state_folder(checkout: Checkout) -> Path:
    """The state folder of this checkout's services."""
    named = os.environ.get(STATE)
    return (Path(named) if named else checkout.state).resolve() / "services"


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
        """The authentication string that Prefect's server and clients share."""
        return f"mmalign:{self.prefect}"


@contextmanager
def owner_only() -> Iterator[None]:
    """Inside, only the owner of the files that this process makes can read them."""
    before = os.umask(OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(before)


def secrets_file(checkout: Checkout) -> Path:
    """The file of passwords."""
    return state_folder(checkout) / "secrets.json"


def read_secrets(checkout: Checkout) -> Secrets:
    """The passwords. Raises UserError where the file is missing or open to others."""
    path = secrets_file(checkout)
    if not path.is_file():
        raise UserError(f"{path} is missing. It holds the passwords of this checkout's services: restore it from a backup")
    if path.stat().st_mode & OWNER_ONLY:
        raise UserError(f"{path} can be read by others: run `chmod 600 {path}`")
    return Secrets(**read_json(path))
