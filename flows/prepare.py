"""Makes the tables of Prefect's and MLflow's databases in this checkout, so that the first run need not. `make install` calls it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from components.operations.environment import enter_checkout
from components.tracking.store import connect
from flows.server import own_server_environment


def prepare() -> None:
    """Create both databases, or migrate them to the installed versions."""
    checkout = enter_checkout()
    os.environ.update(own_server_environment(checkout))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    connect(checkout)


if __name__ == "__main__":
    prepare()
