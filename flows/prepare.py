"""Makes the tables of Prefect's and MLflow's databases in this checkout, so that the first run need not. `make install` calls it."""

from __future__ import annotations

import asyncio
import os

from components.operations.environment import enter_checkout
from components.tracking.store import connect
from flows.server import own_server_of


def prepare() -> None:
    """Create both databases, or migrate them to the installed versions."""
    checkout = enter_checkout()
    server = own_server_of(checkout, port=0)
    server.make_home()
    os.environ.update(server.server_environment())
    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    connect(checkout)


if __name__ == "__main__":
    prepare()
