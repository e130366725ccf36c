from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.services import postgres, temporary_postgres
from components.operations.services.bootstrap import PASSWORDS
from components.operations.services.state import Addresses, client_environment, create_secrets, database_url, free_port, read_addresses
from components.processes.secrets import read_secrets, secrets_file
from tests.checkout import ROOT, clean_environment


def bootstrap(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "components.operations.services.bootstrap", str(root)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False, cwd=root)


@pytest.mark.slow
def test_bootstrap_writes_passwords_and_refuses_weak_ones(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    own, secrets = Addresses("127.0.0.1", 0, 0, free_port(set())), create_secrets(Checkout(tmp_path / "server"))
    passwords = dict.fromkeys(PASSWORDS.values(), "a-long-password")
    with temporary_postgres.database(Checkout(tmp_path), tmp_path / "db", own, secrets):
        url = database_url(own, secrets, "postgres", "postgresql")
        for missing in PASSWORDS.values():
            refused = bootstrap(root, DATABASE_URL=url, **{**passwords, missing: "short"})
            assert refused.returncode == 2
            assert "has no password of 12 characters" in refused.stderr
            assert not secrets_file(Checkout(root)).exists()
        completed = bootstrap(root, DATABASE_URL=url, **passwords)
        assert completed.returncode == 0, completed.stderr
        first = read_secrets(Checkout(root))
        assert first.prefect == first.mlflow_password == "a-long-password"
        assert stat.S_IMODE(secrets_file(Checkout(root)).stat().st_mode) == 0o600
        assert client_environment(Checkout(root))["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
        addresses = read_addresses(Checkout(root))
        assert addresses is not None
        os.environ["DATABASE_URL"] = url
        try:
            assert postgres.answers(addresses, first)
        finally:
            del os.environ["DATABASE_URL"]
        changed = bootstrap(root, DATABASE_URL=url, **{**passwords, PASSWORDS["prefect"]: "another-password"})
        assert changed.returncode == 0, changed.stderr
        assert read_secrets(Checkout(root)).prefect == "another-password"
        assert read_secrets(Checkout(root)).mlflow_key == first.mlflow_key, "sessions stay valid"
