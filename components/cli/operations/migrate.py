"""`mmalign migrate`: after another version of Prefect or MLflow was installed."""

from __future__ import annotations


def migrate() -> None:
    """Bring the databases' tables to the installed versions of Prefect and MLflow; services down, a backup taken before."""
    from components.operations.environment import enter_checkout
    from components.operations.services.migrate import migrate as migrate_record

    migrate_record(enter_checkout(), lambda text: print(text, flush=True))
