from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from components.checkout import Checkout
from components.config.settings import load_settings
from components.operations.services import postgres, temporary_postgres
from components.operations.services.state import assign_addresses, create_secrets, database_url
from components.processes.secrets import state_folder
from tests.checkout import ROOT, clean_environment, mmalign

# Creates the tables of an earlier MLflow, and prints their revision.
BEFORE = """
import sys
from alembic import command
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine_with_retry
from alembic.script import ScriptDirectory
url = sys.argv[1]
config = _get_alembic_config(url)
script = ScriptDirectory.from_config(config)
engine = create_sqlalchemy_engine_with_retry(url)
revision = script.get_revision("head").down_revision
from mlflow.store.tracking.dbmodels.initial_models import Base
Base.metadata.create_all(engine)
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
print(revision)
"""


@pytest.fixture(name="root")
def fixture_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "MMALIGN_STATE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("dvc.yaml", "params.yaml", "ops.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    return root


def older(url: str) -> str:
    """Create the tables from before MLflow's last migration. Returns the name of that revision."""
    completed = subprocess.run([sys.executable, "-c", BEFORE, url], env=clean_environment(), capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.split()[-1]


def opens(url: str) -> bool:
    code = "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore; SqlAlchemyStore(sys.argv[1], 'mlruns')"
    return subprocess.run([sys.executable, "-c", code, url], env=clean_environment(), capture_output=True, check=False).returncode == 0


def version(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("select version_num from alembic_version").fetchone()[0])


def test_migrate_without_record_is_refused(root: Path) -> None:
    refused = mmalign(root, "migrate")
    assert refused.returncode == 2
    assert "nothing to migrate" in refused.stderr


@pytest.mark.slow
def test_older_mlflow_db_is_migrated(root: Path) -> None:
    url = f"sqlite:///{root / 'mlflow.db'}"
    revision = older(url)
    assert version(root / "mlflow.db") == revision
    migration = mmalign(root, "migrate")
    assert migration.returncode == 0, migration.stderr
    assert version(root / "mlflow.db") != revision
    assert opens(url)
    assert mmalign(root, "migrate").returncode == 0, "a second migration does no harm"


@pytest.mark.slow
def test_databases_of_stopped_services_are_migrated(root: Path) -> None:
    secrets = create_secrets(Checkout(root))
    addresses = assign_addresses(Checkout(root), load_settings(root / "params.yaml").services)
    url = database_url(addresses, secrets, "mlflow", "postgresql+psycopg2")
    with temporary_postgres.database(Checkout(root), state_folder(Checkout(root)), addresses, secrets):
        postgres.make_databases(addresses, secrets)
        revision = older(url)
        refused = mmalign(root, "migrate")
        assert refused.returncode == 2
        assert "mmalign down" in refused.stderr
    migration = mmalign(root, "migrate")
    assert migration.returncode == 0, migration.stderr
    with temporary_postgres.database(Checkout(root), state_folder(Checkout(root)), addresses, secrets):
        assert opens(url)
        for database, table in (("mlflow", "alembic_version"), ("mlflow_auth", "alembic_version_auth"), ("prefect", "alembic_version")):
            with (
                closing(psycopg2.connect(database_url(addresses, secrets, database, "postgresql"))) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute(f"select version_num from {table}")  # noqa: S608
                (current,) = cursor.fetchall()
                assert current != (revision,)
