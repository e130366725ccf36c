from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.doctor.services import mlflow_store
from components.storage.data_version import DataState
from components.tracking import store
from components.tracking.runs import close_orphans, open_parent
from components.tracking.store import ExperimentDeleted, _create_database, connect
from flows import new_data, pipeline_run
from flows.after_run import ScheduledRun
from flows.console import Console
from flows.parameters import RunParameters
from tests.tracking.conftest import runs_of

REPOSITORY = Path(__file__).parents[2]
OPEN = (
    "import sys; from pathlib import Path; from components.checkout import Checkout; from components.tracking.runs import open_parent;"
    "print(open_parent(Checkout(Path(sys.argv[1])), 'run'))"
)


def test_mlflow_from_repository_root_is_library() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", "import mlflow; print(mlflow.__version__, mlflow.__file__)"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    version, file = completed.stdout.split()
    assert version[0].isdigit()
    assert "site-packages" in file
    assert not (REPOSITORY / "mlflow" / "__init__.py").exists()


def test_two_first_clients_share_database_and_experiment(checkout: Path) -> None:
    (checkout / "mlflow.db").unlink()
    starts = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(checkout)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ids = [process.communicate(timeout=120)[0].split()[-1] for process in starts]
    client, experiment = connect(Checkout(checkout))
    assert experiment != "0"
    assert {client.get_run(run_id).info.experiment_id for run_id in ids} == {experiment}
    assert len(set(ids)) == 2


def test_kill_while_tables_are_made_leaves_no_database(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "mlflow.db").unlink()
    (checkout / "mlflow.db.new-1").write_bytes(b"half a database of a process that was killed")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            connect(Checkout(checkout))
    assert not (checkout / "mlflow.db").exists()
    client, experiment = connect(Checkout(checkout))
    assert client.get_experiment(experiment).name == store.EXPERIMENT
    assert list(checkout.glob("mlflow.db.new-*")) == []


def test_artifacts_lie_in_mlruns_beside_database(checkout: Path) -> None:
    run_id = open_parent(Checkout(checkout), "run")
    assert (checkout / "mlflow.db").is_file()
    for name in ("params.yaml", "ops.yaml"):
        assert (checkout / "mlruns" / run_id / "artifacts" / name).read_text() == (checkout / name).read_text()


def test_run_of_killed_process_is_marked(checkout: Path) -> None:
    waiting = OPEN + "; sys.stdout.flush(); import time; time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", waiting, str(checkout)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    close_orphans(Checkout(checkout))
    client, _ = connect(Checkout(checkout))
    assert client.get_run(run_id).info.status == "RUNNING"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    close_orphans(Checkout(checkout))
    assert [run.info.status for run in runs_of(checkout)] == ["KILLED"]


def test_deleted_experiment_names_its_cure_which_works(checkout: Path) -> None:
    client, experiment = connect(Checkout(checkout))
    client.delete_experiment(experiment)
    store._connect.cache_clear()

    with pytest.raises(ExperimentDeleted, match="was deleted in MLflow; restore it with: ") as caught:
        connect(Checkout(checkout))
    finding = mlflow_store(Checkout(checkout))
    assert (finding.state, finding.cure) == ("problem", caught.value.cure)

    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(caught.value.cure, shell=True, check=True, env=environment, cwd=checkout)  # noqa: S602 -- the cure as a person types it
    store._failures.clear()
    assert connect(Checkout(checkout))[1] == experiment


def test_deleted_experiment_cure_has_no_password() -> None:
    error = ExperimentDeleted("http://ann:secret@server:5000", "3")
    assert "secret" not in str(error)
    assert error.cure.startswith("MLFLOW_TRACKING_URI=http://server:5000 MLFLOW_TRACKING_USERNAME=admin ")


def test_poll_for_new_data_starts_no_run_without_experiment(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, experiment = connect(Checkout(checkout))
    client.delete_experiment(experiment)
    store._connect.cache_clear()
    monkeypatch.setattr(new_data, "data_state", lambda _: DataState("v2", [], [], [], 1, cached=True))
    settings = Checkout(REPOSITORY).settings()
    run = ScheduledRun(
        Checkout(checkout), settings, RunParameters(only_new_data=True), "id", "on-new-data", "name", Console(), threading.Event()
    )

    with pytest.raises(pipeline_run._NothingToDo, match="experiments restore"):
        pipeline_run._require_new_data(run)


def test_database_of_a_workspace_is_made_where_its_link_points(tmp_path: Path) -> None:
    database, link = tmp_path / "checkout/mlflow.db", tmp_path / "workspace/mlflow.db"
    for folder in (database.parent, link.parent):
        folder.mkdir()
    link.symlink_to(database)
    _create_database(f"sqlite:///{link}")
    assert link.is_symlink()
    assert database.is_file()
    assert [path.name for path in link.parent.iterdir()] == ["mlflow.db"]
