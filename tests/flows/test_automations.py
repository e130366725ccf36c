"""Prefect's server marks runs whose process has ended, and restarts them once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from components.checkout import Checkout
from components.config.settings import Settings, load_settings

pytest.importorskip("prefect")
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed, Pending, Running

from components.files import write_json
from components.operations.services.state import DEPLOYED, Addresses, addresses_file
from components.processes.marks import FLOW_RUN
from components.processes.secrets import state_folder
from flows.automations import LOST, RESTART, STUCK, make_automations
from flows.flow_runs import end_lost_runs
from flows.server import own_server, wait_for_server
from tests.checkout import wait_for, write_secrets

WITHIN_SECONDS = 45  # Prefect's shortest heartbeat is one in 30 seconds
REPOSITORY = Path(__file__).parents[2]
FLOW = """
import pathlib, time
from prefect import flow

@flow
def work(run: dict = {{}}):
    here = pathlib.Path({folder!r})
    (here / "began").touch()
    until = time.monotonic() + 300
    while not (here / "end").exists() and time.monotonic() < until:
        time.sleep(0.1)
"""


@dataclass(frozen=True)
class Deployed:
    """A deployment on a server with the automations."""

    client: SyncPrefectClient
    id: UUID
    folder: Path
    ids: dict[str, UUID]

    def execute(self) -> tuple[UUID, subprocess.Popen[bytes]]:
        """A run of the deployment, in a process of its own, once its flow has begun."""
        run = self.client.create_flow_run_from_deployment(self.id, parameters={"run": {"stages": ["align"]}})
        for name in ("began", "end"):
            (self.folder / name).unlink(missing_ok=True)
        environment = {**os.environ, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(run.id)]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_for((self.folder / "began").exists, 300)
        return run.id, process

    def state(self, run: UUID) -> str:
        return str(self.client.read_flow_run(run).state_name)

    def runs(self) -> dict[UUID, FlowRun]:
        flow_runs = self.client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self.id])))
        return {run.id: run for run in flow_runs}

    def started_for(self, run: UUID) -> list[FlowRun]:
        return [one for one in self.runs().values() if (one.parameters.get("run") or {}).get("recovers") == str(run)]


@pytest.fixture(scope="module")
def settings() -> Settings:
    whole = load_settings(REPOSITORY / "params.yaml")
    return whole.model_copy(update={"deployments": whole.deployments.model_copy(update={"crashed_after_seconds": WITHIN_SECONDS})})


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Iterator[Deployed]:
    import threading

    before = dict(os.environ)
    root = tmp_path_factory.mktemp("automations")
    log = root / "server.log"
    (root / "work.py").write_text(FLOW.format(folder=str(root)))
    try:
        with own_server(Checkout(root), log) as server:
            wait_for_server(server, log, threading.Event())
            here = {PREFECT_API_URL: os.environ["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"]}
            with temporary_settings(here), get_client(sync_client=True) as client:
                client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
                flow = client.create_flow_from_name("work")
                nightly = client.create_deployment(flow, "nightly", work_pool_name="pool", path=str(root), entrypoint="work.py:work")
                yield Deployed(client, nightly, root, make_automations(client, {"nightly": nightly}, settings))
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.slow
def test_automations_are_updated_not_doubled(deployed: Deployed, settings: Settings) -> None:
    assert set(deployed.ids) == {LOST, STUCK, f"{RESTART} (nightly)"}
    before = {automation.name: automation for automation in deployed.client.read_automations()}
    deployed.client.pause_automation(deployed.ids[STUCK])
    longer = settings.deployments.model_copy(update={"crashed_after_seconds": 300})
    assert make_automations(deployed.client, {"nightly": deployed.id}, settings.model_copy(update={"deployments": longer})) == deployed.ids
    changed = {automation.name: automation for automation in deployed.client.read_automations()}
    assert changed.keys() == before.keys()
    assert changed[LOST].trigger.within.total_seconds() == 300  # type: ignore[union-attr]
    assert not changed[STUCK].enabled
    assert changed[f"{RESTART} (nightly)"] == before[f"{RESTART} (nightly)"]
    deployed.client.resume_automation(deployed.ids[STUCK])
    assert make_automations(deployed.client, {"nightly": deployed.id}, settings) == deployed.ids


@pytest.mark.slow
def test_killed_run_is_restarted_once_and_healthy_run_is_not(deployed: Deployed) -> None:
    healthy, process = deployed.execute()
    time.sleep(WITHIN_SECONDS + 20)  # longer than the window: its heartbeats keep it
    assert deployed.state(healthy) == "Running"
    (deployed.folder / "end").touch()
    assert process.wait(60) == 0
    assert deployed.state(healthy) == "Completed"

    killed, process = deployed.execute()
    # The flow, and what would notice its end: as when a machine is switched off.
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.kill()
    process.wait()
    at = time.monotonic()
    wait_for(lambda: deployed.state(killed) == "Crashed", WITHIN_SECONDS + 60)
    print(f"marked after {time.monotonic() - at:.0f} s")
    wait_for(lambda: deployed.started_for(killed), 30)
    time.sleep(WITHIN_SECONDS)
    assert [run.parameters for run in deployed.started_for(killed)] == [{"run": {"recovers": str(killed)}}]
    assert deployed.state(healthy) == "Completed"  # long after its last heartbeat
    assert deployed.started_for(healthy) == []


@pytest.mark.slow
def test_restart_that_crashes_before_begin_is_not_restarted(deployed: Deployed) -> None:
    # A worker that lives marks a run at once when its process ends without a word.
    first = deployed.client.create_flow_run_from_deployment(deployed.id).id
    deployed.client.set_flow_run_state(first, Pending())
    deployed.client.set_flow_run_state(first, Running())
    deployed.client.set_flow_run_state(first, Crashed())
    wait_for(lambda: deployed.started_for(first), 30)
    (second,) = deployed.started_for(first)
    deployed.client.set_flow_run_state(second.id, Pending())
    deployed.client.set_flow_run_state(second.id, Crashed())
    time.sleep(20)
    assert deployed.started_for(second.id) == []


@pytest.mark.slow
def test_stuck_cancellation_ends_as_cancelled(deployed: Deployed) -> None:
    run = deployed.client.create_flow_run_from_deployment(deployed.id).id
    for state in (Pending(), Running(), Cancelling()):
        deployed.client.set_flow_run_state(run, state)
    wait_for(lambda: deployed.state(run) == "Cancelled", WITHIN_SECONDS + 60)
    time.sleep(10)
    assert deployed.started_for(run) == []


@pytest.mark.slow
def test_run_before_power_cut_is_marked_lost(deployed: Deployed) -> None:
    root = deployed.folder
    port = int(os.environ["PREFECT_API_URL"].split(":")[2].partition("/")[0])
    write_json(addresses_file(Checkout(root)), asdict(Addresses("127.0.0.1", port, 1, 1)))
    write_secrets(Checkout(root), os.environ["PREFECT_API_AUTH_STRING"])
    write_json(state_folder(Checkout(root)) / DEPLOYED, {"nightly": str(deployed.id)})
    lost, cancelled = (deployed.client.create_flow_run_from_deployment(deployed.id).id for _ in range(2))
    for run in (lost, cancelled):
        deployed.client.set_flow_run_state(run, Pending())
        deployed.client.set_flow_run_state(run, Running())
    deployed.client.set_flow_run_state(cancelled, Cancelling())
    assert end_lost_runs(Checkout(root), 30) == []  # their last sign is too young
    time.sleep(3)

    # As long as a process of it lives here, its silence is another's matter.
    with subprocess.Popen(["sleep", "60"], env={**os.environ, FLOW_RUN: str(lost)}) as process:
        assert len(end_lost_runs(Checkout(root), 2)) == 1
        process.kill()
    assert (deployed.state(lost), deployed.state(cancelled)) == ("Running", "Cancelled")
    assert len(end_lost_runs(Checkout(root), 2)) == 1
    assert deployed.state(lost) == "Crashed"
    wait_for(lambda: deployed.started_for(lost), 30)
    assert end_lost_runs(Checkout(root), 0) == []
    assert deployed.started_for(cancelled) == []
