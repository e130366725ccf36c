"""Deployments on the real services: what is deployed, started, awaited, refused, and begun by new data or a schedule."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.operations.services.state import client_environment
from components.stages import STAGE_NAMES
from flows.flow_runs import deployments
from tests.checkout import behave, clean_environment, mmalign, started, wait_for
from tests.flows.scheduled import ended, quiet, runs, served, start, start_stale, state, tags_of, tasks_of
from tests.flows.stage_sampler import StageSampler
from tests.prefect_rest import ask

__all__ = ["quiet", "served"]
pytestmark = pytest.mark.slow

TASK_SECONDS = 3.0  # between the times of a stage's task on the server and those of its process
BETWEEN_STAGES_SECONDS = 3.0  # from the end of a stage's process to the start of the next one's


def test_prefects_own_command_deploys_the_same(served: Path) -> None:
    def described() -> list[Any]:
        keys = ("name", "tags", "entrypoint", "pull_steps", "parameters", "work_pool_name", "concurrency_limit", "description")
        existing = ask(Checkout(served), "deployments/filter", {})
        schedules = [[(one["slug"], one["schedule"]["cron"], one["active"]) for one in each["schedules"]] for each in existing]
        return sorted((repr([one[key] for key in keys]), repr(made)) for one, made in zip(existing, schedules, strict=True))

    before = described()
    environment = {**clean_environment(), **client_environment(Checkout(served)), "NO_COLOR": "1", "COLUMNS": "200"}
    completed = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=served,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Invalid" not in completed.stdout
    assert described() == before
    assert mmalign(served, "deploy").returncode == 0


def test_second_deploy_doubles_nothing(served: Path) -> None:
    def on_server() -> tuple[list[str], list[str], int, list[str]]:
        existing = ask(Checkout(served), "deployments/filter", {})
        automations = ask(Checkout(served), "automations/filter", {})
        limits = ask(Checkout(served), "v2/concurrency_limits/filter", {})
        names = sorted(limit["name"] for limit in limits if not limit["name"].startswith("deployment:"))
        return (
            sorted(one["id"] for one in existing),
            sorted(one["id"] for one in automations),
            sum(len(one["schedules"]) for one in existing),
            names,
        )

    before = on_server()
    assert len(before[0]) == 3
    assert before[2] == 2
    completed = mmalign(served, "deploy", "--json")
    assert completed.returncode == 0, completed.stderr
    assert sorted(json.loads(completed.stdout)) == ["nightly", "on-demand", "on-new-data"]
    assert on_server() == before


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"runn": {}}, "runn"),
        ({"run": {"overides": []}}, "overides"),
        ({"run": {"overrides": ["alignment.bta=1"]}}, "alignment.bta"),
        ({"run": {"stages": ["rewrd"]}}, "rewrd"),
        ({"run": {"source": "svn"}}, "svn"),
    ],
)
def test_wrong_parameter_is_refused_before_run(served: Path, parameters: dict[str, Any], named: str) -> None:
    before = len(runs(served, "nightly"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(Checkout(served), f"deployments/{deployments(Checkout(served))['nightly']}/create_flow_run", {"parameters": parameters})
    assert refused.value.code == 409
    assert named in refused.value.read().decode()
    assert len(runs(served, "nightly")) == before


def test_command_line_mistakes_exit_with_2(served: Path) -> None:
    for arguments, named in (
        (["--deployment", "nigtly"], "nightly"),
        (["--deployment", "nightly", "--set", "alignment.bta=1"], "did you mean 'alignment.beta'"),
        (["--deployment", "nightly", "--only", "rewrd"], "rewrd"),
        (["--wait"], "--deployment"),
    ):
        completed = mmalign(served, "run", *arguments)
        assert completed.returncode == 2, arguments
        assert named in completed.stderr
        assert len(completed.stderr.strip().splitlines()) == 1
    refused = mmalign(served, "run", "--deployment", "on-demand", "--ref", "main", "--wait")
    assert refused.returncode == 2
    assert "source 'git'" in refused.stderr


def test_run_of_deployment_equals_run_of_person(served: Path) -> None:
    with StageSampler(served) as sampler:
        completed = mmalign(served, "run", "--deployment", "nightly", "--wait", timeout=600)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "reward     ran" in completed.stdout
    summary = json.loads((served / "reports/summary.json").read_text())
    assert summary["status"] == "ok"
    (run,) = runs(served, "nightly")
    assert run["state_type"] == "COMPLETED"
    every = ask(Checkout(served), "flow_runs/filter", {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}})
    assert {one["deployment_id"] for one in every} <= {str(identifier) for identifier in deployments(Checkout(served)).values()}, (
        "no run has a flow run of its own below it"
    )
    tasks = {task["name"]: task for task in tasks_of(served, run)}
    assert {name: task["state_type"] for name, task in tasks.items()} == dict.fromkeys(STAGE_NAMES, "COMPLETED")
    assert sorted(seen.stage for seen in sampler.seen) == sorted(STAGE_NAMES)
    crowding = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))  # 1 on a machine that does nothing else
    for seen in sampler.seen:
        times = [datetime.fromisoformat(tasks[seen.stage][key]).timestamp() for key in ("start_time", "end_time")]
        apart = (seen.began - times[0], times[1] - seen.ended)
        assert all(-1 <= seconds <= TASK_SECONDS * crowding for seconds in apart), (seen.stage, apart)
    for number, seen in enumerate(sampler.seen[1:], 1):
        assert seen.began - max(before.ended for before in sampler.seen[:number]) <= BETWEEN_STAGES_SECONDS * crowding, seen
    assert tags_of(served, summary["mlflow_run_id"])["prefect.flow_run"] == run["id"]
    made = ask(Checkout(served), "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert {artifact["type"] for artifact in made} >= {"table", "markdown", "progress"}
    # A person's run in the same checkout finds nothing stale: it is the same record.
    second = mmalign(served, "run")
    assert second.returncode == 0, second.stderr
    assert "nothing was stale" in second.stdout


def test_restored_stage_is_a_task_too(served: Path) -> None:
    assert ended(served, start(served))["state_type"] == "COMPLETED"
    count = len(started(served))
    shutil.rmtree(served / "artifacts")
    run = start(served)
    assert ended(served, run)["state_type"] == "COMPLETED"
    assert {task["name"]: task["state_name"] for task in tasks_of(served, run)} == dict.fromkeys(STAGE_NAMES, "Restored")
    assert len(started(served)) == count


def test_second_run_waits_and_third_is_refused(served: Path) -> None:
    behave(served, "reward", "wait")
    first = start_stale(served, 21)
    wait_for((served / "waiting.reward").exists, seconds=120)
    second = start(served)
    wait_for(lambda: state(served, second)["state_type"] == "RUNNING", seconds=60)
    third = start(served)
    assert ended(served, third, 60)["state_type"] == "CANCELLED"
    status = mmalign(served, "run")
    assert status.returncode == 2
    assert "on-demand" in status.stderr
    behave(served, "reward")
    assert ended(served, first)["state_type"] == "COMPLETED"
    assert ended(served, second)["state_type"] == "COMPLETED"
    assert "nothing was stale" in state(served, second)["state"]["message"]


def test_new_data_start_run_and_same_data_do_not(served: Path) -> None:
    def poll() -> dict[str, Any]:
        body = {"parameters": {"run": {"only_new_data": True}}, "state": {"type": "SCHEDULED"}}
        return ended(served, ask(Checkout(served), f"deployments/{deployments(Checkout(served))['on-new-data']}/create_flow_run", body))

    assert ended(served, start(served))["state_type"] == "COMPLETED"
    count = len(started(served))
    assert poll()["state"]["message"] == "no new data"
    assert len(started(served)) == count
    (served / "data/preferences/data.jsonl").write_text("1\n2\n3\n")
    assert poll()["state_type"] == "COMPLETED"
    assert started(served)[count:][:1] == ["validate"]
    assert poll()["state"]["message"] == "no new data"


def test_broken_rows_are_reported_once(served: Path) -> None:
    def poll() -> dict[str, Any]:
        body = {"parameters": {"run": {"only_new_data": True}}, "state": {"type": "SCHEDULED"}}
        return ended(served, ask(Checkout(served), f"deployments/{deployments(Checkout(served))['on-new-data']}/create_flow_run", body))

    def failures() -> list[str]:
        lines = (served / "logs/notices.jsonl").read_text().splitlines()
        return [notice["title"] for notice in map(json.loads, lines) if notice["kind"] == "failed" and "validate" in notice["title"]]

    before = len(failures()) if (served / "logs/notices.jsonl").is_file() else 0
    behave(served, "validate", "mistake")
    (served / "data/preferences/data.jsonl").write_text("1\n{broken\n")
    polls = [poll() for _ in range(3)]
    assert [one["state_type"] for one in polls] == ["FAILED", "COMPLETED", "COMPLETED"]
    assert all(one["state"]["message"].startswith("no new data since the run that failed") for one in polls[1:])
    assert len(failures()) == before + 1

    behave(served, "validate")
    (served / "data/preferences/data.jsonl").write_text("1\n2\n3\n4\n")
    assert poll()["state_type"] == "COMPLETED"
    assert poll()["state"]["message"] == "no new data"


def test_schedule_starts_nightly_run(served: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=90)
    before = len(runs(served, "nightly"))
    settings = (served / "ops.yaml").read_text()
    try:
        (served / "ops.yaml").write_text(settings.replace('cron: "0 2 * * *"', f'cron: "{soon.minute} {soon.hour} * * *"'))
        assert mmalign(served, "deploy").returncode == 0
        wait_for(lambda: len(runs(served, "nightly")) > before, seconds=200)
        assert ended(served, runs(served, "nightly")[-1])["state_type"] == "COMPLETED"
        assert "auto-scheduled" in runs(served, "nightly")[-1]["tags"]
    finally:
        (served / "ops.yaml").write_text(settings)
        mmalign(served, "deploy")
