"""Imports the checkout's record from mlflow.db into the services' database, once: runs, versions, aliases, verdicts.

It copies the rows table by table into a database of the same schema, so every id stays the same. Artifacts stay in mlruns/, which MLflow's
server then serves; only their addresses change. With a bucket it uploads them first.
"""

from __future__ import annotations

import os
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault
from components.files import write_json
from components.operations.services.programs import ARTIFACTS_BUCKET, artifacts
from components.operations.services.state import Addresses, database_url
from components.processes.secrets import Secrets, state_folder

IMPORTED = "carried.json"  # in the state folder: rows by table, once the import has finished
SERVED = "mlflow-artifacts:/"  # MLflow's prefix for artifacts that its server serves
LOCATION_COLUMNS = {
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "model_versions": ["source", "storage_location"],
    "logged_models": ["artifact_location"],
}
ROWS_AT_ONCE = 500


def import_record(checkout: Checkout, addresses: Addresses, secrets: Secrets) -> dict[str, int]:
    """Copy the rows of the checkout's mlflow.db; returns the number of rows by table. Empty without mlflow.db, or after an earlier import.

    Call it while MLflow's server is down. One transaction holds all rows, so a kill leaves no partial import.
    """
    mark = state_folder(checkout) / IMPORTED
    source_path = checkout.mlflow_database
    if mark.is_file():
        return {}
    if not source_path.is_file():
        write_json(mark, {})
        return {}
    from sqlalchemy import MetaData, create_engine

    _make_tables(database_url(addresses, secrets, "mlflow", "postgresql+psycopg2"))
    source = create_engine(f"sqlite:///{source_path}")
    target = create_engine(database_url(addresses, secrets, "mlflow", "postgresql+psycopg2"))
    try:
        old_schema, new_schema = MetaData(), MetaData()
        old_schema.reflect(source)
        new_schema.reflect(target)
        _upload(checkout)
        with source.connect() as old, target.begin() as new:
            if _version(old) != _version(new):
                raise StageFault(f"another version of MLflow wrote {source_path}: run `mlflow db upgrade sqlite:///{source_path}` first")
            counts = _copy(checkout, old, new, old_schema, new_schema)
    finally:
        source.dispose()
        target.dispose()
    write_json(mark, counts)
    return counts


def _copy(checkout: Checkout, old: Any, new: Any, old_schema: Any, new_schema: Any) -> dict[str, int]:
    """Empty the target's tables (a fresh database has a default experiment), then fill them in an order that foreign keys allow."""
    from sqlalchemy import delete, select

    prefixes = [checkout.mlruns.resolve().as_uri(), str(checkout.mlruns.resolve())]
    tables = [table for table in new_schema.sorted_tables if table.name != "alembic_version"]
    for table in reversed(tables):
        new.execute(delete(table))
    counts: dict[str, int] = {}
    for table in tables:
        if table.name not in old_schema.tables:
            continue
        source = old_schema.tables[table.name]
        columns = [column for column in table.columns if column.name in source.columns]
        records = old.execute(select(*(source.c[column.name] for column in columns))).mappings()
        rows = [{column.name: _value(table.name, column, row[column.name], prefixes) for column in columns} for row in records]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            new.execute(table.insert(), rows[start : start + ROWS_AT_ONCE])
        if rows:
            counts[table.name] = len(rows)
            _move_sequence(new, table)
    return counts


def _value(table: str, column: Any, value: Any, prefixes: list[str]) -> Any:
    if column.name in LOCATION_COLUMNS.get(table, []):
        return _served(value, prefixes)
    # SQLite stores booleans as numbers.
    return bool(value) if value is not None and column.type.python_type is bool else value


def _move_sequence(new: Any, table: Any) -> None:
    """Set the sequence of ids behind the highest copied id, since copying does not advance it."""
    from sqlalchemy import text

    keys = list(table.primary_key.columns)
    if len(keys) != 1 or keys[0].type.python_type is not int:
        return
    column = keys[0].name
    sequence = new.execute(text("select pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column}).scalar()
    if sequence:
        highest = f"select coalesce(max({column}), 0) + 1 from {table.name}"  # noqa: S608 -- names of MLflow's own schema
        new.execute(text(f"select setval(:sequence, ({highest}), false)"), {"sequence": sequence})


def _served(location: str | None, prefixes: list[str]) -> str | None:
    for prefix in prefixes:
        if location is not None and location.startswith(prefix):
            return SERVED + location.removeprefix(prefix).lstrip("/")
    return location


def _version(connection: Any) -> str:
    from sqlalchemy import text

    return str(connection.execute(text("select version_num from alembic_version")).scalar())


def _make_tables(url: str) -> None:
    """Create the tables of the installed MLflow, by opening the database with it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(url, SERVED)


def _upload(checkout: Checkout) -> None:
    """Upload the artifacts to the bucket, where one is set."""
    bucket = os.environ.get(ARTIFACTS_BUCKET)
    if not bucket or not checkout.mlruns.is_dir():
        return
    import boto3

    store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)
    prefix = artifacts(checkout).removeprefix(f"s3://{bucket}/")
    for path in sorted(path for path in checkout.mlruns.rglob("*") if path.is_file()):
        store.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(checkout.root / 'mlruns').as_posix()}")
