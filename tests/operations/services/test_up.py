"""The real services of a checkout: PostgreSQL, Prefect's server, MLflow's server and a worker, up, down and up again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json
from components.operations.services.health import require_services
from components.operations.services.state import client_environment, read_addresses
from components.processes.marks import SERVICE_MARK, checkout_mark, marked
from components.processes.secrets import read_secrets, secrets_file, state_folder

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(name="checkout")
def fixture_checkout(tmp_path: Path) -> Iterator[Path]:
    """The files that `mmalign up` needs, and a record of one run."""
    root = tmp_path / "100%mine with space"
    root.mkdir()
    for name in ("params.yaml", "ops.yaml", "dvc.yaml"):
        shutil.copyfile(REPOSITORY / name, root / name)
    code = (
        "from pathlib import Path; from components.checkout import Checkout; from components.tracking.store import connect;"
        "client, experiment = connect(Checkout(Path('.')));"
        "run = client.create_run(experiment); client.log_metric(run.info.run_id, 'loss', 0.5);"
        "client.log_text(run.info.run_id, 'kept', 'note.txt'); client.set_terminated(run.info.run_id); print(run.info.run_id)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment(root), capture_output=True, text=True, check=True, timeout=300
    )
    (root / "run_id").write_text(completed.stdout.split()[-1])
    yield root
    if read_addresses(Checkout(root)) is not None:
        mmalign(root, "down")


def environment(root: Path) -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(root), "PYTHONPATH": str(REPOSITORY)}


def mmalign(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "components.cli.main", *arguments]
    return subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, check=False, timeout=900)


def status(url: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def recorded(root: Path) -> str:
    """The metric and the artifact of the run, as a client of this checkout reads them from the server."""
    code = (
        "import sys; from mlflow import MlflowClient; import mlflow; client = MlflowClient();"
        "run = client.get_run(sys.argv[1]); print(run.data.metrics['loss'], mlflow.artifacts.load_text(run.info.artifact_uri + '/note.txt'))"
    )
    run_id = (root / "run_id").read_text()
    variables = {**environment(root), **client_environment(Checkout(root))}
    completed = subprocess.run(
        [sys.executable, "-c", code, run_id], cwd=root, env=variables, capture_output=True, text=True, check=False, timeout=300
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


@pytest.mark.slow
def test_up_imports_record_and_survives_down_and_up(checkout: Path) -> None:
    first = mmalign(checkout, "up", "--detach")
    assert first.returncode == 0, first.stderr
    assert "1 runs" in first.stdout
    addresses = read_addresses(Checkout(checkout))
    assert addresses is not None

    assert status(f"{addresses.mlflow}/api/2.0/mlflow/experiments/search", b'{"max_results": 5}') == 401
    assert status(f"{addresses.prefect}/api/flows/filter", b"{}") == 401
    assert secrets_file(Checkout(checkout)).stat().st_mode & 0o777 == 0o600
    secrets = read_secrets(Checkout(checkout))
    for path in state_folder(Checkout(checkout)).glob("logs/*"):
        assert secrets.mlflow_password not in path.read_text(errors="replace"), path
    for process in marked(SERVICE_MARK, checkout_mark(Checkout(checkout))):
        assert not any(secret in process.command for secret in (secrets.postgres, secrets.prefect, secrets.mlflow_password))
    assert recorded(checkout) == "0.5 kept"

    second = mmalign(checkout, "up", "--detach")  # they run already
    assert second.returncode == 0, second.stderr

    down = mmalign(checkout, "down")
    assert down.returncode == 0, down.stderr
    assert marked(SERVICE_MARK, checkout_mark(Checkout(checkout))) == []
    refused = mmalign(checkout, "run")
    assert refused.returncode == 2
    assert "mmalign up" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

    back = mmalign(checkout, "up", "--detach")
    assert back.returncode == 0, back.stderr
    assert read_addresses(Checkout(checkout)) == addresses
    assert recorded(checkout) == "0.5 kept"


def test_down_without_services_is_refused(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "dvc.yaml", tmp_path / "dvc.yaml")
    assert client_environment(Checkout(tmp_path)) == {}
    require_services(Checkout(tmp_path))
    down = mmalign(tmp_path, "down")
    assert down.returncode == 2
    assert "mmalign up" in down.stderr


def test_passwords_readable_by_others_are_refused(tmp_path: Path) -> None:
    from components.operations.services.state import create_secrets

    secrets = create_secrets(Checkout(tmp_path))
    assert create_secrets(Checkout(tmp_path)) == secrets
    assert read_json(secrets_file(Checkout(tmp_path)))["prefect"] == secrets.prefect
    secrets_file(Checkout(tmp_path)).chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_secrets(Checkout(tmp_path))
