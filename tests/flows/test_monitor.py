"""The monitor with a fake clock: against a small server with Prefect's API, and once against the real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import TypeAdapter

pytest.importorskip("prefect")
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, State, StateType, Worker, WorkerStatus, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Running

from components.checkout import Checkout
from components.files import write_json
from components.operations.notices.send import JOURNAL
from components.operations.services.state import DEPLOYED, Addresses, addresses_file, create_secrets, free_port
from components.processes.secrets import state_folder
from flows.flow_runs import runs_of, server_client
from flows.monitor import CHECKS_ANSWERED, Monitor
from tests.settings import copy_settings

REPOSITORY = Path(__file__).resolve().parents[3]
DUE = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
ID = UUID("11111111-2222-3333-4444-555555555555")


class Prefect:
    """The state of the server. It filters runs by the criteria that the monitor uses, as Prefect does."""

    def __init__(self) -> None:
        schedule = DeploymentSchedule(schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"), active=True)
        self.deployment = DeploymentResponse(
            id=ID, name="nightly", flow_id=uuid4(), version=None, version_info=None, work_pool_name="mmalign", schedules=[schedule]
        )
        self.pool = WorkPool(id=uuid4(), name="mmalign", type="process", is_paused=False, default_queue_id=uuid4())
        self.workers = [Worker(name="w", work_pool_id=self.pool.id, status=WorkerStatus.ONLINE, last_heartbeat_time=DUE)]
        self.planned = [run_of(DUE + timedelta(days=30), None, "Scheduled")]
        self.runs: list[FlowRun] = []
        self.status = 200

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """What the server replies to a request."""
        if path == "/api/flow_runs/filter":
            assert body["flow_runs"]["deployment_id"]["any_"] == [str(ID)]
            runs = [run for run in [*self.planned, *self.runs] if self._fits(run, body["flow_runs"])]
            return sorted(runs, key=lambda run: str(run.expected_start_time), reverse=True)[: body["limit"]]
        if path == "/api/events/filter":
            return {"events": [], "total": 0}
        replies = {
            f"/api/deployments/{ID}": self.deployment,
            "/api/work_pools/mmalign": self.pool,
            "/api/work_pools/mmalign/workers/filter": self.workers,
        }
        return replies[path]

    @staticmethod
    def _fits(run: FlowRun, criteria: dict[str, Any]) -> bool:
        if "state" in criteria and run.state_type not in criteria["state"]["type"]["any_"]:
            return False
        if "tags" in criteria and not set(criteria["tags"]["all_"]) <= set(run.tags):
            return False
        for key in criteria.keys() & {"start_time", "expected_start_time"}:
            moment, bounds = getattr(run, key), {name: datetime.fromisoformat(text) for name, text in criteria[key].items() if text}
            if not moment or not bounds.get("after_", moment) <= moment <= bounds.get("before_", moment):
                return False
        return True


def run_of(expected: datetime, start: datetime | None, state: str = "Running", **fields: Any) -> FlowRun:
    kind = StateType.SCHEDULED if state == "Late" else StateType[state.upper()]
    made = FlowRun(
        name="brave-ox", flow_id=uuid4(), deployment_id=ID, state=State(type=kind, name=state), tags=["auto-scheduled"], **fields
    )
    times = {"expected_start_time": expected, "start_time": start, "state_type": kind, "state_name": state}
    return made.model_copy(update=times)


@pytest.fixture(name="prefect")
def fixture_prefect() -> Iterator[tuple[Prefect, int]]:
    prefect = Prefect()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status = 404 if self.path.startswith("/api/csrf-token") else prefect.status  # 404: the server wants no such token
            reply = TypeAdapter(Any).dump_json(prefect.answer(self.path, json.loads(body or b"{}")) if status == 200 else {})
            self.send_response(status)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield prefect, server.server_port
        server.shutdown()
        thread.join()


class Clock:
    """A clock with a fixed time."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def checkout(folder: Path, port: int, deployed: datetime = DUE - timedelta(days=3)) -> Path:
    """A checkout with services at `port` and a deployment of the time `deployed`."""
    copy_settings(folder)
    create_secrets(Checkout(folder))
    write_json(addresses_file(Checkout(folder)), asdict(Addresses("127.0.0.1", port, free_port(set()), free_port(set()))))
    write_json(state_folder(Checkout(folder)) / DEPLOYED, {"nightly": str(ID)})
    os.utime(state_folder(Checkout(folder)) / DEPLOYED, (deployed.timestamp(), deployed.timestamp()))
    return folder


def notices(root: Path) -> list[dict[str, Any]]:
    path = root / JOURNAL
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


LATE = DUE + timedelta(minutes=31)


def test_abandoned_run_is_reported_once(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    now = datetime.now(UTC)
    abandoned = run_of(now, None, "Crashed", parameters={"run": {"recovers": "b"}}, run_count=0)
    # The flow reports a run that began. The automation restarts a run that recovers nothing.
    began = run_of(now, None, "Crashed", parameters={"run": {"recovers": "b"}}, run_count=1)
    server.runs = [abandoned, began, run_of(now, None, "Crashed")]
    root = checkout(tmp_path, port)
    for _ in range(2):
        monitor = Monitor(Checkout(root), Clock(LATE))
        for checks in range(CHECKS_ANSWERED):
            assert monitor.check_runs() == [] or checks > 0
            monitor.check()
        monitor.check_runs()
    assert [(notice["kind"], notice["facts"]["flow_run"]) for notice in notices(root)] == [("failed", str(abandoned.id))]


def test_missed_run_is_reported_once_across_restart(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    server.workers[0].status = WorkerStatus.OFFLINE
    server.runs = [run_of(DUE, None, "Late")]
    root = checkout(tmp_path, port, deployed=DUE - timedelta(hours=1))
    clock = Clock(DUE + timedelta(minutes=29))
    monitor = Monitor(Checkout(root), clock)
    assert monitor.check() is None  # not late yet

    clock.now = LATE
    notice = monitor.check()

    assert notice is not None
    assert (notice.kind, notice.title) == ("missed", "nightly 2026-11-25 02:00 UTC did not begin")
    assert notice.details["seen"][:2] == [
        "run brave-ox is Late",
        "no worker of pool mmalign is alive; the last one was seen at 2026-11-25 02:00 UTC",
    ]
    assert monitor.check() is None
    assert Monitor(Checkout(root), Clock(LATE + timedelta(hours=20))).check() is None
    assert [entry["kind"] for entry in notices(root)] == ["missed"]
    server.runs.append(run_of(DUE + timedelta(days=1), None, "Late"))
    next_day = Monitor(Checkout(root), Clock(LATE + timedelta(days=1))).check()
    assert next_day is not None
    assert "2026-11-26" in next_day.title


@pytest.mark.parametrize("state", ["Running", "Completed", "Failed"])
def test_run_that_began_causes_no_notice(state: str, tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].runs = [run_of(DUE, DUE + timedelta(minutes=12), state)]

    assert Monitor(Checkout(checkout(tmp_path, prefect[1])), Clock(LATE)).check() is None


def test_late_run_and_still_running_one_are_named(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].runs = [run_of(DUE, DUE + timedelta(hours=7))]
    late = Monitor(Checkout(checkout(tmp_path, prefect[1])), Clock(DUE + timedelta(hours=8))).check()
    assert late is not None
    assert late.details["seen"] == ["run brave-ox began only at 2026-11-25 09:00 UTC"]

    day_before = DUE - timedelta(days=1)
    prefect[0].runs = [run_of(DUE, None, "Late"), run_of(day_before, day_before)]
    (tmp_path / "other").mkdir()
    still = Monitor(Checkout(checkout(tmp_path / "other", prefect[1])), Clock(LATE)).check()
    assert still is not None
    assert still.details["seen"] == ["run brave-ox is Late", "run brave-ox of 2026-11-24 02:00 UTC is still running"]


def test_run_that_no_schedule_planned_is_not_missed(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].runs = [run_of(DUE, None, "Late").model_copy(update={"tags": []})]

    assert Monitor(Checkout(checkout(tmp_path, prefect[1])), Clock(LATE)).check() is None


def test_paused_pool_is_named(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].pool.is_paused = True
    prefect[0].runs = [run_of(DUE, None, "Late")]

    notice = Monitor(Checkout(checkout(tmp_path, prefect[1])), Clock(LATE)).check()

    assert notice is not None
    assert notice.details["seen"] == ["run brave-ox is Late", "work pool mmalign is paused"]


def test_paused_schedule_causes_no_notice(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    server.runs = [run_of(DUE, None, "Late")]
    server.planned = []
    server.deployment.schedules[0].active = False

    assert Monitor(Checkout(checkout(tmp_path, port)), Clock(LATE)).check() is None


def test_missing_or_later_deployment_is_not_missed(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].runs = [run_of(DUE, None, "Late")]
    root = checkout(tmp_path, prefect[1], deployed=DUE + timedelta(minutes=5))
    assert Monitor(Checkout(root), Clock(DUE + timedelta(hours=2))).check() is None

    (state_folder(Checkout(root)) / DEPLOYED).unlink()

    assert Monitor(Checkout(root), Clock(LATE)).check() is None


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("away", "Prefect's server has a fault (500)"), ("lost", "run `mmalign deploy`"), ("unplanned", "Prefect plans no next run")],
)
def test_server_that_starts_nothing_is_reported_once(fault: str, sentence: str, tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    root, clock = checkout(tmp_path, port), Clock(LATE)
    monitor, planned = Monitor(Checkout(root), clock), server.planned

    def fail(*, failing: bool) -> None:
        server.status = {"away": 500, "lost": 404}.get(fault, 200) if failing else 200
        server.planned = [] if failing and fault == "unplanned" else planned

    fail(failing=True)
    assert monitor.check() is None
    clock.now += timedelta(minutes=29)
    assert monitor.check() is None, "a restart of the server takes less"
    clock.now += timedelta(minutes=2)
    notice = monitor.check()
    assert notice is not None
    assert notice.title == "nightly can't begin since 2026-11-25 02:31 UTC"
    assert sentence in notice.details["seen"][0]
    restarted = Monitor(Checkout(root), clock)
    for _ in range(2):
        clock.now += timedelta(hours=1)
        assert restarted.check() is None
    assert [entry["kind"] for entry in notices(root)] == ["missed"]

    fail(failing=False)
    assert restarted.check() is None
    fail(failing=True)
    assert restarted.check() is None
    clock.now += timedelta(minutes=31)
    assert restarted.check() is not None, "another outage"


@pytest.mark.slow
def test_monitor_reads_real_prefect_server(tmp_path: Path) -> None:
    port = free_port(set())
    root = checkout(tmp_path, port)
    settings = (root / "ops.yaml").read_text()
    (root / "ops.yaml").write_text(settings.replace("late_minutes: 30", "late_minutes: 59"))
    secrets = create_secrets(Checkout(root))
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": secrets.prefect_auth,
        "PREFECT_SERVER_API_AUTH_STRING": secrets.prefect_auth,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        completed = subprocess.run(
            [sys.executable, "-c", REAL], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
        )
        assert completed.returncode == 0, completed.stderr
        deployment = completed.stdout.split()[-1]
        write_json(state_folder(Checkout(root)) / DEPLOYED, {"nightly": deployment})
        os.utime(state_folder(Checkout(root)) / DEPLOYED, (0, 0))
        due = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)  # each hour by the schedule of the script

        missed = Monitor(Checkout(root), Clock(due + timedelta(minutes=59))).check()
        with server_client(Checkout(root)) as client:
            second = next(run for run in runs_of(client, [UUID(deployment)]) if run.expected_start_time == due + timedelta(hours=1))
            client.set_flow_run_state(second.id, Running(), force=True)
        begun = Monitor(Checkout(root), Clock(due + timedelta(minutes=119))).check()

        assert missed is not None
        assert missed.details["due"] == due.isoformat()
        assert "is Scheduled" in missed.details["seen"][0]
        assert "no worker of pool probe is alive" in missed.details["seen"]
        assert begun is None
    finally:
        server.terminate()
        server.wait(30)


# Waits for the server, deploys a flow by the client's own calls, and waits for its planned runs.
REAL = """
import time
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule

@flow
def nightly():
    pass

with get_client(sync_client=True) as client:
    until = time.monotonic() + 180
    while client.api_healthcheck() is not None:
        assert time.monotonic() < until
        time.sleep(0.5)
    client.create_work_pool(WorkPoolCreate(name="probe", type="process"))
    flow_id = client.create_flow(nightly)
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 * * * *", timezone="UTC"), active=True)
    made = client.create_deployment(flow_id, "nightly", work_pool_name="probe", schedules=[schedule])
    while len(client.read_flow_runs()) < 3:
        assert time.monotonic() < until
        time.sleep(0.5)
    print(made)
"""
