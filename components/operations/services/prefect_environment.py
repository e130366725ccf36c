"""The environment of every Prefect server that this software starts, and of its clients: the services' and the one of a single run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.operations.services.door import HOSTS


@dataclass(frozen=True)
class PrefectServer:
    """One server: its folder, its database for SQLAlchemy, its address (http://HOST:PORT), its password as user:password, the names by which
    requests may address it, and whether it serves pages."""

    home: Path
    database: str
    address: str
    auth: str
    hosts: Sequence[str]
    pages: bool = True

    def client_environment(self) -> dict[str, str]:
        """What a client needs. The password travels in the environment alone."""
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_PROFILES_PATH": str(self.home / "profiles.toml"),
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_API_AUTH_STRING": self.auth,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def server_environment(self) -> dict[str, str]:
        """What the server needs: a client of itself, with database, password, hosts and origin."""
        return {
            **self.client_environment(),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database,
            "PREFECT_SERVER_API_AUTH_STRING": self.auth,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.address,  # only its own page; the default admits every page of a browser
            HOSTS: ",".join(self.hosts),
            "PREFECT_SERVER_UI_ENABLED": str(self.pages).lower(),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.home / "pages"),
            "PREFECT_SERVER_UI_API_URL": "/api",  # a page asks the server that it came from, by whichever of its names
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # none are used, and it takes seconds
            # A killed server forgets leases in memory, and then counts their slots as taken for ever.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }

    def make_home(self) -> None:
        """Create the folder, which only its owner may read: it holds the database of runs."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
