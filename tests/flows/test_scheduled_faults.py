"""Runs of deployments that are killed, cancelled, or ended on Prefect's page, on the real services."""

from __future__ import annotations

import json
import time
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.schemas.objects import State, StateType

from components.checkout import Checkout
from components.processes.marks import SERVICE_MARK, checkout_mark, identity, is_alive, marked
from components.processes.slots.locks import slot_holder
from components.processes.slots.taking import locked_slots
from flows.flow_runs import server_client
from tests.checkout import alive, behave, mmalign, started, wait_for
from tests.flows.scheduled import ended, quiet, runs, served, start_stale, state, tasks_of

__all__ = ["quiet", "served"]
pytestmark = pytest.mark.slow


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
    earlier = len(started(served))
    resumed = mmalign(served, "resume", "--wait", timeout=600)
    assert resumed.returncode == 0, resumed.stderr
    assert [stage for stage in started(served)[earlier:] if stage != "reference"] == ["reward", "critique", "align", "evaluate"]


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
