"""Deployments on the real services: PostgreSQL, Prefect's server and worker, MLflow's server, and a small checkout with fast stages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.schemas.objects import State, StateType

from components.checkout import Checkout
from components.config.overrides import changed_settings
from components.operations.services.state import client_environment
from components.processes.marks import SERVICE_MARK, checkout_mark, identity, is_alive, marked
from components.processes.slots.locks import slot_holder
from components.processes.slots.taking import locked_slots
from components.stages import STAGE_NAMES
from components.storage.copies import workspace_of
from flows.flow_runs import FINAL, deployments, server_client
from tests.checkout import ROOT, alive, behave, clean_environment, git, make_checkout, mmalign, started, wait_for
from tests.flows.stage_sampler import StageSampler
from tests.prefect_rest import ask

pytestmark = pytest.mark.slow

TASK_SECONDS = 3.0  # between the times of a stage's task on the server and those of its process
BETWEEN_STAGES_SECONDS = 3.0  # from the end of a stage's process to the start of the next one's


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


def start_stale(folder: Path, number: int) -> dict[str, Any]:
    """Start a run of `on-demand` that finds reward and all after it stale."""
    params = folder / "params.yaml"
    for path, text in changed_settings(params, [fresh(number)]).items():
        path.write_text(text)
    return start(folder)


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


def test_cancelled_run_leaves_no_process(served: Path) -> None:
    behave(served, "reward", "wait", "grandchild")
    run = start_stale(served, 22)
    wait_for((served / "waiting.reward").exists, seconds=120)
    before = len(runs(served, "on-demand"))
    completed = mmalign(served, "cancel")
    assert completed.returncode == 0, completed.stderr
    assert state(served, run)["state_name"] == "Cancelled"
    assert alive(served) == []
    behave(served, "reward")
    time.sleep(5)
    assert len(runs(served, "on-demand")) == before, "a cancelled run is not started again"
    resumed = mmalign(served, "resume", "--wait", timeout=600)
    assert resumed.returncode == 0, resumed.stderr
    assert started(served)[-4:] == ["reward", "critique", "align", "evaluate"]


def test_machine_fault_is_retried_and_failed_training_is_not(served: Path) -> None:
    behave(served, "reward", "killed")
    run = start_stale(served, 23)
    wait_for(lambda: started(served)[-1:] == ["reward"], seconds=120)
    wait_for(lambda: started(served)[-2:] == ["reward", "reward"], seconds=120)
    behave(served, "reward")
    assert ended(served, run)["state_type"] == "COMPLETED"
    notices = [json.loads(line) for line in (served / "logs/notices.jsonl").read_text().splitlines()]
    assert notices[-1]["kind"] == "recovered"

    behave(served, "reward", "training")
    count = len(started(served))
    failed = ended(served, start_stale(served, 24))
    assert failed["state_type"] == "FAILED"
    assert len(started(served)) == count + 1
    notices = [json.loads(line) for line in (served / "logs/notices.jsonl").read_text().splitlines()]
    assert (notices[-1]["kind"], notices[-1]["facts"]["stage"], notices[-1]["facts"]["fault"]) == ("failed", "reward", "training")


@pytest.mark.parametrize("targets", [["prefect.engine"], ["prefect worker", "prefect.engine", "components.storage.dvc_process"]])
def test_run_of_killed_flow_is_restarted_once(served: Path, targets: list[str]) -> None:
    behave(served, "reward", "wait")
    run = start_stale(served, 30 + len(targets))
    wait_for((served / "waiting.reward").exists, seconds=120)
    before = len(runs(served, "on-demand"))
    for target in targets:
        for process in marked(SERVICE_MARK, checkout_mark(Checkout(served))):
            if target in process.command:
                psutil.Process(process.pid).kill()
    behave(served, "reward")
    assert ended(served, run, 240)["state_type"] == "CRASHED"
    wait_for(lambda: len(runs(served, "on-demand")) == before + 1, seconds=60)
    last = runs(served, "on-demand")[-1]
    assert last["parameters"]["run"]["recovers"] == run["id"]
    assert ended(served, last)["state_type"] == "COMPLETED"
    time.sleep(3)
    assert len(runs(served, "on-demand")) == before + 1
    assert {task["state_type"] for task in tasks_of(served, run)} == {"COMPLETED", "CRASHED"}
    assert alive(served) == []


def test_gpu_lock_outlives_killed_flow_and_ends_with_stage(served: Path) -> None:
    behave(served, "reward", "wait", "grandchild")  # which ends only with SIGKILL, so that the stage takes a while to end
    start_stale(served, 41)
    wait_for((served / "waiting.reward").exists, seconds=120)
    ((slot, holder),) = locked_slots().items()
    assert (slot, holder.checkout, holder.stage) == ("gpu-0", str(served.resolve()), "reward")
    process = identity(holder.pid)
    assert process is not None
    for flow in marked(SERVICE_MARK, checkout_mark(Checkout(served))):
        if "prefect.engine" in flow.command:
            psutil.Process(flow.pid).kill()
    seen = []
    until = time.monotonic() + 120
    while is_alive(process) and time.monotonic() < until:
        lock = slot_holder(slot)
        if is_alive(process):  # so it lived when the lock was read
            seen.append(lock)
    ended = seen.index(None) if None in seen else len(seen)  # a process closes its files a moment before it ends
    assert ended > 10
    assert set(seen[:ended]) == {holder}
    assert len(seen) - ended < 10
    assert locked_slots() == {}
    behave(served, "reward")
    wait_for(lambda: runs(served, "on-demand")[-1]["state_type"] == "COMPLETED", seconds=240)


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


@pytest.mark.parametrize("how", ["deleted", "Failed", "Completed"])
def test_run_that_is_ended_on_page_ends_here(served: Path, how: str) -> None:
    behave(served, "reward", "wait", "grandchild")
    run = start_stale(served, 40 + len(how))
    wait_for((served / "waiting.reward").exists, seconds=120)
    before = len(runs(served, "on-demand"))
    with server_client(Checkout(served)) as client:
        if how == "deleted":
            client.delete_flow_run(UUID(run["id"]))
        else:
            client.set_flow_run_state(UUID(run["id"]), State(type=StateType[how.upper()], name=how), force=True)
    wait_for(lambda: not alive(served), seconds=90)
    assert len(started(served)) >= 1
    wait_for(lambda: json.loads(mmalign(served, "status", "--json").stdout)["running"]["run"] is None, seconds=30)  # its flow ends last
    if how != "deleted":
        assert state(served, run)["state_name"] == how
    time.sleep(5)
    assert len(runs(served, "on-demand")) == before - (how == "deleted"), "it is not started again"


def test_cancel_ends_run_that_no_server_knows(served: Path) -> None:
    """The watcher of the run's record asks each ten seconds; a command ends the run at once."""
    behave(served, "reward", "wait", "grandchild")
    run = start_stale(served, 49)
    wait_for((served / "waiting.reward").exists, seconds=120)
    with server_client(Checkout(served)) as client:
        client.delete_flow_run(UUID(run["id"]))
    completed = mmalign(served, "cancel")
    assert completed.returncode == 0, completed.stderr
    assert run["id"] in completed.stdout
    assert alive(served) == []
    assert mmalign(served, "cancel").returncode == 2


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


def test_run_on_clone_ignores_edits_of_checkout(served: Path) -> None:
    mine = (served / "params.yaml").read_text()
    (served / "params.yaml").write_text(mine + "# an edit that nobody has committed\n")
    (served / "dvc.lock").unlink(missing_ok=True)
    completed = mmalign(served, "run", "--deployment", "on-demand", "--source", "git", "--set", fresh(51), "--wait", timeout=600)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert (served / "params.yaml").read_text() == mine + "# an edit that nobody has committed\n"
    assert not (served / "dvc.lock").exists()
    run = runs(served, "on-demand")[-1]
    clone = served / ".mmalign/services/clones" / run["id"]
    settings = yaml.safe_load((clone / "params.yaml").read_text())
    assert settings["reward"]["epochs"] == 51
    assert "an edit" not in (clone / "params.yaml").read_text()
    assert (clone / ".dvc/config.local").read_text().count(str(served / ".dvc/cache")) == 1
    branch = subprocess.run(["git", "branch", "--show-current"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert branch.startswith("mmalign/on-demand-")
    (served / "params.yaml").write_text(mine)
    shutil.rmtree(clone)

    unknown = mmalign(served, "run", "--deployment", "on-demand", "--source", "git", "--ref", "no-such-branch", "--wait")
    assert unknown.returncode == 2
    assert "no-such-branch" in unknown.stderr


def test_overrides_hold_for_their_run_alone(served: Path) -> None:
    """In a folder of its own, through a kill of its flow and an edit of params.yaml meanwhile; the command again trains nothing."""
    assert ended(served, start(served))["state_type"] == "COMPLETED"
    results = {path: path.read_bytes() for path in sorted((served / "artifacts").rglob("*")) if path.is_file()}
    lock, summary = (served / "dvc.lock").read_bytes(), (served / "reports/summary.json").read_bytes()
    mine = (served / "params.yaml").read_text()
    count = len(started(served))
    copy = workspace_of(Checkout(served), [fresh(61)]).root
    (copy / "behaviour").mkdir(parents=True)
    behave(copy, "align", "wait")
    try:
        run = start(served, overrides=[fresh(61)])
        wait_for((copy / "waiting.align").exists, seconds=120)
        (served / "params.yaml").write_text(mine + "# an edit that nobody has committed\n")
        for process in marked(SERVICE_MARK, checkout_mark(Checkout(served))):
            if "prefect.engine" in process.command:
                psutil.Process(process.pid).kill()
        wait_for(lambda: not alive(copy), seconds=60)  # a stage that ends by itself would need no second start
        behave(copy, "align")
        assert ended(served, run, 240)["state_type"] == "CRASHED"
        wait_for(lambda: runs(served, "on-demand")[-1]["parameters"]["run"].get("recovers") == run["id"], seconds=60)
        assert ended(served, runs(served, "on-demand")[-1])["state_type"] == "COMPLETED"
    finally:
        behave(copy, "align")
    ran = started(copy)
    assert ran == ["reward", "critique", "align", "align", "evaluate"]
    assert yaml.safe_load((copy / "params.yaml").read_text())["reward"]["epochs"] == 61
    assert "an edit" not in (copy / "params.yaml").read_text()
    assert json.loads((copy / "artifacts/reward/result.txt").read_text().splitlines()[0])["epochs"] == 61

    repeated = mmalign(served, "run", "--deployment", "on-demand", "--set", fresh(61), "--wait", timeout=600)
    assert repeated.returncode == 0, repeated.stderr
    assert started(copy) == ran
    assert "nothing was stale" in repeated.stdout
    assert "an edit" in (copy / "params.yaml").read_text()

    # The checkout is as it was, and its next run has its own settings.
    assert (served / "params.yaml").read_text() == mine + "# an edit that nobody has committed\n"
    assert {path: path.read_bytes() for path in sorted((served / "artifacts").rglob("*")) if path.is_file()} == results
    assert ((served / "dvc.lock").read_bytes(), (served / "reports/summary.json").read_bytes()) == (lock, summary)
    assert len(started(served)) == count
    assert "nothing was stale" in ended(served, start(served))["state"]["message"]
    (served / "params.yaml").write_text(mine)


def test_two_checkouts_share_no_processes_or_ports(served: Path, tmp_path: Path) -> None:
    other = make_checkout(tmp_path / "other")
    status = mmalign(other, "status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["running"]["processes"] == []
    down = mmalign(other, "down")
    assert down.returncode == 2
    assert marked(SERVICE_MARK, checkout_mark(Checkout(served))) != []


def test_renamed_host_runs_deployments(served: Path) -> None:
    def renamed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--uts", "sh", "-c", 'hostname renamed-host && exec "$@"', "sh", sys.executable, "-m", "components.cli.main"]
        environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
        return subprocess.run([*command, *arguments], cwd=served, env=environment, capture_output=True, text=True, timeout=900, check=False)

    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a namespace for a host's name")
    assert mmalign(served, "down", timeout=300).returncode == 0
    up = renamed("up", "--detach")
    assert up.returncode == 0, up.stderr
    completed = renamed("run", "--deployment", "on-demand", "--wait")
    assert completed.returncode == 0, completed.stdout + completed.stderr
