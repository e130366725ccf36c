"""A small checkout with fast stages that is deployed on the real services: PostgreSQL, Prefect's server and worker, MLflow's server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.config.overrides import changed_settings
from components.operations.services.state import client_environment
from components.processes.marks import SERVICE_MARK, checkout_mark, marked
from flows.flow_runs import FINAL, deployments
from tests.checkout import behave, git, make_checkout, mmalign, wait_for
from tests.prefect_rest import ask

CHANGES = {
    'poll_cron: "*/5 * * * *"': 'poll_cron: "0 0 29 2 *"',
    "retry_seconds: 60": "retry_seconds: 1",
    "crashed_after_seconds: 240": "crashed_after_seconds: 100",
    "reward: { deadline_minutes: 2880, gpus: 0 }": "reward: { deadline_minutes: 2880, gpus: 1 }",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small checkout whose services are up and that is deployed. Its stage `reward` takes one of two GPUs, which are names alone."""
    folder = make_checkout(tmp_path_factory.mktemp("scheduled") / "100%mine with space")
    settings = (folder / "ops.yaml").read_text()
    for before, after in CHANGES.items():
        assert before in settings
        settings = settings.replace(before, after)
    (folder / "ops.yaml").write_text(settings)
    git(folder, "commit", "-qam", "Times of a test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMALIGN_SLOTS", str(folder.parent / "slots"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        try:
            for command in (["up", "--detach"], ["deploy"]):
                completed = mmalign(folder, *command, timeout=900)
                assert completed.returncode == 0, completed.stdout + completed.stderr
            yield folder
        finally:
            mmalign(folder, "down", timeout=300)
            assert marked(SERVICE_MARK, checkout_mark(Checkout(folder))) == []


@pytest.fixture(autouse=True)
def quiet(served: Path) -> Iterator[None]:
    """Nothing is under way before a test, nor after it."""
    yield
    for stage in ("validate", "reward"):
        behave(served, stage)
    wait_for(lambda: not under_way(served), seconds=240)
    for waiting in served.glob("waiting.*"):
        waiting.unlink()


def under_way(folder: Path) -> list[dict[str, Any]]:
    """Runs of deployments that have begun and not ended."""
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(Checkout(folder)).values())},
            "state": {"type": {"not_any_": [*FINAL, "SCHEDULED"]}},
        }
    }
    return list(ask(Checkout(folder), "flow_runs/filter", body))


def runs(folder: Path, deployment: str) -> list[dict[str, Any]]:
    """All runs of a deployment but planned ones, the oldest first."""
    body = {
        "flow_runs": {
            "deployment_id": {"any_": [deployments(Checkout(folder))[deployment]]},
            "state": {"type": {"not_any_": ["SCHEDULED"]}},
        },
        "sort": "EXPECTED_START_TIME_ASC",
    }
    return list(ask(Checkout(folder), "flow_runs/filter", body))


def start(folder: Path, **parameters: Any) -> dict[str, Any]:
    """Start a run of `on-demand` through the API, as Prefect's page does."""
    body = {"parameters": {"run": parameters}, "state": {"type": "SCHEDULED"}}
    made: dict[str, Any] = ask(Checkout(folder), f"deployments/{deployments(Checkout(folder))['on-demand']}/create_flow_run", body)
    return made


def state(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    flow_run: dict[str, Any] = ask(Checkout(folder), f"flow_runs/{run['id']}")
    return flow_run


def ended(folder: Path, run: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    wait_for(lambda: state(folder, run)["state_type"] in FINAL, seconds)
    return state(folder, run)


def fresh(number: int) -> str:
    """A setting that makes reward and all after it stale."""
    return f"reward.epochs={number}"


def start_stale(folder: Path, number: int) -> dict[str, Any]:
    """Start a run of `on-demand` that finds reward and all after it stale."""
    params = folder / "params.yaml"
    for path, text in changed_settings(params, [fresh(number)]).items():
        path.write_text(text)
    return start(folder)


def tasks_of(folder: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a flow run."""
    return list(ask(Checkout(folder), "task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}}))


def tags_of(folder: Path, run_id: str) -> dict[str, str]:
    code = f"from mlflow import MlflowClient; import json; print(json.dumps(MlflowClient().get_run({run_id!r}).data.tags))"
    completed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **client_environment(Checkout(folder))}, capture_output=True, text=True, check=True
    )
    tags: dict[str, str] = json.loads(completed.stdout.splitlines()[-1])
    return tags
