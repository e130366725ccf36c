"""Checkouts with a record: a run with a metric and an artifact, under git and DVC."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.config.settings import load_settings
from components.operations.services import postgres, temporary_postgres
from components.operations.services.import_sqlite import import_record
from components.operations.services.state import assign_addresses, create_secrets
from components.processes.marks import SERVICE_MARK, checkout_mark, kill_all, marked
from components.processes.secrets import state_folder
from components.tracking import store
from components.tracking.runs import open_parent
from tests.checkout import ROOT, checkout_template

__all__ = ["checkout_template"]


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "DATABASE_URL", "MMALIGN_S3_BUCKET", "MMALIGN_STATE"):
        monkeypatch.delenv(name, raising=False)
    yield
    store._failures.clear()
    store._connect.cache_clear()


@pytest.fixture(scope="session")
def recorded_template(checkout_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose mlflow.db holds one run."""
    folder = tmp_path_factory.mktemp("recorded") / "checkout"
    shutil.copytree(checkout_template, folder, symlinks=True)
    run_id = open_parent(Checkout(folder), "mmalign run")
    client, _ = store.connect(Checkout(folder))
    client.log_metric(run_id, "loss", 0.5)
    client.log_text(run_id, "kept", "note.txt")
    client.set_terminated(run_id)
    (folder / ".mmalign/run_id").write_text(run_id)
    store._connect.cache_clear()
    return folder


@pytest.fixture
def checkout(recorded_template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the checkout with the record."""
    yield from _copied(recorded_template, tmp_path / "checkout")


@pytest.fixture
def fresh(checkout_template: Path, tmp_path: Path) -> Iterator[Path]:
    """A clone without any record, in another folder."""
    yield from _copied(checkout_template, tmp_path / "fresh")


def _copied(template: Path, folder: Path) -> Iterator[Path]:
    from components.operations.backup.databases import move_sqlite_record

    shutil.copytree(template, folder, symlinks=True)
    if (folder / "mlflow.db").is_file():
        move_sqlite_record(folder / "mlflow.db", template, folder)
    yield folder
    kill_all(lambda: marked(SERVICE_MARK, checkout_mark(Checkout(folder))))


def use_services(root: Path) -> None:
    """Import the record into the services' database, as the first `mmalign up` does, and stop the database."""
    secrets = create_secrets(Checkout(root))
    addresses = assign_addresses(Checkout(root), load_settings(ROOT / "params.yaml").services)
    with temporary_postgres.database(Checkout(root), state_folder(Checkout(root)), addresses, secrets):
        postgres.make_databases(addresses, secrets)
        import_record(Checkout(root), addresses, secrets)


def run_of(root: Path) -> tuple[float, str, str]:
    """The run in mlflow.db: its metric, its artifact, its checkout's mark."""
    import mlflow

    client, experiment = store.connect(Checkout(root))
    (run,) = client.search_runs([experiment])
    note = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt")
    return run.data.metrics["loss"], note, run.data.tags["mmalign.checkout"]
