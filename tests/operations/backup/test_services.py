"""Backup and restore of the services' databases on real PostgreSQL; the last test runs all services."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json
from components.operations.backup import databases
from components.operations.backup.make import make_backup
from components.operations.backup.restore import restore_backup
from components.operations.services import postgres, temporary_postgres
from components.operations.services.state import (
    Addresses,
    addresses_file,
    client_environment,
    create_secrets,
    database_url,
    free_port,
    read_addresses,
)
from components.processes.marks import SERVICE_MARK, checkout_mark, marked
from components.processes.secrets import read_secrets, secrets_file, state_folder
from tests.checkout import ROOT, clean_environment, mmalign, wait_for
from tests.operations.backup.conftest import use_services


def quiet(text: str) -> None:
    assert text


def rows(addresses: Addresses, root: Path, statement: str, database: str = "mlflow") -> list[tuple[object, ...]]:
    with (
        closing(psycopg2.connect(database_url(addresses, read_secrets(Checkout(root)), database, "postgresql"))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return list(cursor.fetchall())


def recorded(root: Path) -> tuple[list[tuple[object, ...]], ...]:
    """The run's metric, location and tag in the checkout's database."""
    addresses = read_addresses(Checkout(root))
    assert addresses is not None
    with temporary_postgres.database(Checkout(root), state_folder(Checkout(root)), addresses, read_secrets(Checkout(root))):
        return (
            rows(addresses, root, "select value from metrics where key = 'loss'"),
            rows(addresses, root, "select artifact_uri like 'mlflow-artifacts:/%' from runs"),
            rows(addresses, root, "select value from tags where key = 'mmalign.checkout'"),
        )


def expected(root: Path) -> tuple[list[tuple[object, ...]], ...]:
    return [(0.5,)], [(True,)], [(checkout_mark(Checkout(root)),)]


def test_services_state_restores_into_other_folder(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    use_services(checkout)
    folder = tmp_path / "kept"
    backup = mmalign(checkout, "backup", str(folder))  # starts the database for a moment
    assert backup.returncode == 0, backup.stderr
    assert "secrets.json" in backup.stdout
    assert read_secrets(Checkout(checkout)).postgres not in backup.stdout + backup.stderr
    assert stat.S_IMODE((folder / "state/secrets.json").stat().st_mode) == 0o600
    assert not any("postgres-password" in path.name or path.suffix == ".sock" for path in folder.rglob("*"))

    back = mmalign(fresh, "restore", str(folder))
    assert back.returncode == 0, back.stderr
    assert "mmalign deploy" in back.stdout
    assert read_secrets(Checkout(fresh)) == read_secrets(Checkout(checkout))
    assert stat.S_IMODE(secrets_file(Checkout(fresh)).stat().st_mode) == 0o600
    assert read_addresses(Checkout(fresh)) == read_addresses(Checkout(checkout))
    assert recorded(fresh) == expected(fresh)
    assert next((fresh / "mlruns").rglob("note.txt")).read_text() == "kept"
    assert read_json(state_folder(Checkout(fresh)) / "carried.json")["runs"] == 1, "no later start may import another record"
    assert marked(SERVICE_MARK, checkout_mark(Checkout(fresh))) == []

    second = mmalign(fresh, "restore", str(folder))
    assert second.returncode == 2
    assert "holds services already" in second.stderr


@pytest.mark.slow
def test_lost_state_folder_restores_beside_artifacts(checkout: Path, tmp_path: Path) -> None:
    use_services(checkout)
    folder = make_backup(Checkout(checkout), tmp_path / "kept", with_cache=False, log=quiet).folder
    secrets = read_secrets(Checkout(checkout))
    shutil.rmtree(state_folder(Checkout(checkout)))
    restore_backup(Checkout(checkout), folder, quiet)
    assert recorded(checkout) == expected(checkout)
    assert read_secrets(Checkout(checkout)) == secrets


@pytest.mark.slow
def test_killed_restore_leaves_no_services_and_can_rerun(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    use_services(checkout)
    folder = make_backup(Checkout(checkout), tmp_path / "kept", with_cache=False, log=quiet).folder
    command = [sys.executable, "-m", "components.cli.main", "restore", str(folder)]
    process = subprocess.Popen(command, cwd=fresh, env={**clean_environment(), "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    wait_for((state_folder(Checkout(fresh)).parent / "services.restoring/postgres/initialised").is_file)  # the database starts now
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_addresses(Checkout(fresh)) is None
    assert not (fresh / "mlruns").exists()
    restore = mmalign(fresh, "restore", str(folder))
    assert restore.returncode == 0, restore.stderr
    assert recorded(fresh) == expected(fresh)
    assert marked(SERVICE_MARK, checkout_mark(Checkout(fresh))) == []
    assert not list((fresh / ".mmalign").glob("*.restoring"))


@pytest.mark.slow
def test_external_database_restores_only_into_empty_server(
    checkout: Path, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = {name: Addresses("127.0.0.1", 0, 0, free_port(set())) for name in ("old", "new")}
    secrets = create_secrets(Checkout(tmp_path))
    with (
        temporary_postgres.database(Checkout(tmp_path), tmp_path / "old", servers["old"], secrets),
        temporary_postgres.database(Checkout(tmp_path), tmp_path / "new", servers["new"], secrets),
    ):
        monkeypatch.setenv("DATABASE_URL", database_url(servers["old"], secrets, "postgres", "postgresql"))
        use_services(checkout)
        folder = make_backup(Checkout(checkout), tmp_path / "kept", with_cache=False, log=quiet).folder
        assert read_json(folder / "manifest.json")["external_database"] is True
        assert secrets.postgres not in "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())

        with pytest.raises(UserError, match="is not empty"):
            restore_backup(Checkout(fresh), folder, quiet)
        monkeypatch.delenv("DATABASE_URL")
        with pytest.raises(UserError, match="set DATABASE_URL"):
            restore_backup(Checkout(fresh), folder, quiet)
        assert read_addresses(Checkout(fresh)) is None

        monkeypatch.setenv("DATABASE_URL", database_url(servers["new"], secrets, "postgres", "postgresql"))
        restore_backup(Checkout(fresh), folder, quiet)
        assert recorded(fresh) == expected(fresh)


def test_failed_pg_dump_message_hides_password(checkout: Path, tmp_path: Path) -> None:
    use_services(checkout)
    addresses, secrets = read_addresses(Checkout(checkout)), read_secrets(Checkout(checkout))
    assert addresses is not None
    with pytest.raises(Exception, match="pg_dump of database mlflow failed") as caught:
        databases.dump(Checkout(checkout), addresses, secrets, "mlflow", tmp_path / "x.dump")
    assert secrets.postgres not in str(caught.value)


@pytest.mark.slow
def test_restore_after_total_loss_keeps_lineage_and_skips(checkout: Path, tmp_path: Path) -> None:
    """`mmalign up`, a champion, a backup beside running services, the loss of all state, a restore, `mmalign up`."""
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["dvc", "repro", "-q"], cwd=checkout, env=environment, check=True, timeout=300)
    assert mmalign(checkout, "plan", "--json").stdout.count('"skip"') == 6
    assert mmalign(checkout, "up", "--detach", timeout=900).returncode == 0
    try:
        python(checkout, REGISTER)
        lineage = mmalign(checkout, "lineage", "mm-policy@champion", "--json").stdout
        assert '"champion"' in lineage
        backup = mmalign(checkout, "backup", str(tmp_path / "kept"))  # services run
        assert backup.returncode == 0, backup.stderr
        assert databases_of(tmp_path / "kept") == set(postgres.DATABASES)
    finally:
        assert mmalign(checkout, "down").returncode == 0

    shutil.rmtree(state_folder(Checkout(checkout)))
    for name in ("mlruns", "artifacts"):
        shutil.rmtree(checkout / name)
    (checkout / "mlflow.db").unlink()
    (checkout / "dvc.lock").unlink()
    restore = mmalign(checkout, "restore", str(tmp_path / "kept"))
    assert restore.returncode == 0, restore.stderr
    subprocess.run(["dvc", "checkout", "-q"], cwd=checkout, env=environment, check=True, timeout=300)
    assert mmalign(checkout, "plan", "--json").stdout.count('"skip"') == 6
    assert addresses_file(Checkout(checkout)).is_file()
    assert mmalign(checkout, "up", "--detach", timeout=900).returncode == 0
    try:
        assert mmalign(checkout, "lineage", "mm-policy@champion", "--json").stdout == lineage
        assert python(checkout, FETCH).split()[-1] == "same"
        assert '"worker' in python(checkout, POOLS), "Prefect's history is restored too"
    finally:
        assert mmalign(checkout, "down").returncode == 0


REGISTER = """
from tests.tiny import save_checkpoint
from components.registry.registry import Registry
from components.registry.versions import CHAMPION
save_checkpoint(root.root / "model", seed=1)
version = Registry(root).register("mm-policy", root.root / "model", whole=True, run_id=None, tags={"mmalign.verdict": "promoted"})
Registry(root).set_alias("mm-policy", CHAMPION, version.number)
"""
FETCH = """
import tempfile
from components.registry.registry import Registry
from components.registry.versions import CHAMPION
from components.families.digests import model_digest
version = Registry(root).at("mm-policy", CHAMPION)
with tempfile.TemporaryDirectory() as folder:
    print("same" if model_digest(Registry(root).fetch(version, Path(folder) / "model")) == version.digest else "other")
"""
POOLS = """
from tests.prefect_rest import ask
import json
print(json.dumps(["worker" for pool in ask(root, "work_pools/filter", {}) if pool["name"] == "mmalign"]))
"""


def python(root: Path, code: str) -> str:
    begin = "from pathlib import Path\nfrom components.checkout import Checkout\nroot = Checkout(Path.cwd())\n"
    environment = {**clean_environment(), **client_environment(Checkout(root)), "PYTHONPATH": str(ROOT)}
    completed = subprocess.run([sys.executable, "-c", begin + code], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def databases_of(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "databases").glob("*.dump")}
