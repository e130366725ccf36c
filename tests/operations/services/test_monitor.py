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

import pytest

from components.checkout import Checkout
from components.files import read_json, write_json
from components.operations.notices.send import JOURNAL
from components.operations.services.monitor import CHECKS_ANSWERED, Monitor, Schedule
from components.operations.services.state import DEPLOYED, Addresses, addresses_file, create_secrets, free_port
from components.processes.secrets import state_folder
from tests.settings import copy_settings

REPOSITORY = Path(__file__).resolve().parents[3]
DUE = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
ID = "11111111-2222-3333-4444-555555555555"


class Prefect:
    """The state of the server. It filters runs by their start as Prefect does."""

    def __init__(self) -> None:
        self.deployment = {
            "paused": False,
            "work_pool_name": "mmalign",
            "schedules": [{"active": True, "schedule": {"cron": "0 2 * * *", "timezone": "UTC"}}],
        }
        self.pool = {"is_paused": False}
        self.workers = [{"name": "w", "status": "ONLINE", "last_heartbeat_time": "2026-11-25T02:00:00+00:00"}]
        self.runs: list[dict[str, Any]] = []
        self.crashed: list[dict[str, Any]] = []
        self.status = 200

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON for a request."""
        if path == "/api/flow_runs/filter":
            if "deployment_id" in body["flow_runs"]:
                return [run for run in self.crashed if run["state_type"] in body["flow_runs"]["state"]["type"]["any_"]]
            assert body["deployments"] == {"id": {"any_": [ID]}}
            return [run for run in self.runs if all(self._fits(run, key, of) for key, of in body["flow_runs"].items())]
        replies = {
            f"/api/deployments/{ID}": self.deployment,
            "/api/work_pools/mmalign": self.pool,
            "/api/work_pools/mmalign/workers/filter": self.workers,
        }
        return replies[path]

    @staticmethod
    def _fits(run: dict[str, Any], key: str, of: dict[str, Any]) -> bool:
        if key == "state":
            return run["state_type"] in of["type"]["any_"]
        moment = run[key] and datetime.fromisoformat(run[key])
        after, before = of.get("after_"), of.get("before_")
        return (
            bool(moment)
            and (not after or moment >= datetime.fromisoformat(after))
            and (not before or moment <= datetime.fromisoformat(before))
        )


def run_of(expected: datetime, start: datetime | None, state: str = "Running") -> dict[str, Any]:
    return {
        "name": "brave-ox",
        "expected_start_time": expected.isoformat(),
        "start_time": start and start.isoformat(),
        "state_name": state,
        "state_type": state.upper(),
        "state": {"message": None},
    }


@pytest.fixture(name="prefect")
def fixture_prefect() -> Iterator[tuple[Prefect, int]]:
    prefect = Prefect()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            reply = json.dumps(prefect.answer(self.path, json.loads(body or b"{}")) if prefect.status == 200 else {}).encode()
            self.send_response(prefect.status)
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
    write_json(state_folder(Checkout(folder)) / DEPLOYED, {"nightly": ID})
    os.utime(state_folder(Checkout(folder)) / DEPLOYED, (deployed.timestamp(), deployed.timestamp()))
    return folder


def notices(root: Path) -> list[dict[str, Any]]:
    path = root / JOURNAL
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


LATE = DUE + timedelta(minutes=31)


def test_abandoned_run_is_reported_once(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    server.runs = [run_of(DUE, DUE)]
    run = {**run_of(DUE, None, "Crashed"), "id": "a", "parameters": {"run": {"recovers": "b"}}, "run_count": 0}
    # The flow reports a run that began. The automation restarts a run that recovers nothing.
    began, first = {**run, "id": "c", "run_count": 1}, {**run, "id": "d", "parameters": {}}
    server.crashed = [run, began, first]
    root = checkout(tmp_path, port)
    for _ in range(2):
        monitor = Monitor(Checkout(root), Clock(LATE))
        for checks in range(CHECKS_ANSWERED):
            assert monitor.check_runs() == [] or checks > 0
            monitor.check()
        monitor.check_runs()
    assert [(notice["kind"], notice["facts"]["flow_run"]) for notice in notices(root)] == [("failed", "a")]


def test_missed_run_is_reported_once_across_restart(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    server.workers[0]["status"] = "OFFLINE"
    server.runs = [run_of(DUE, None, "Late")]
    root = checkout(tmp_path, port, deployed=DUE - timedelta(hours=1))
    clock = Clock(DUE + timedelta(minutes=29))
    monitor = Monitor(Checkout(root), clock)
    assert monitor.check() is None  # not late yet

    clock.now = LATE
    notice = monitor.check()

    assert notice is not None
    assert (notice.kind, notice.title) == ("missed", "nightly 2026-11-25 02:00 UTC did not begin")
    assert notice.details["seen"] == [
        "run brave-ox is Late",
        "no worker of pool mmalign is alive; the last one was seen at 2026-11-25 02:00 UTC",
    ]
    assert monitor.check() is None
    assert Monitor(Checkout(root), Clock(LATE + timedelta(hours=20))).check() is None
    assert [entry["kind"] for entry in notices(root)] == ["missed"]
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

    prefect[0].runs = [run_of(DUE - timedelta(days=1), DUE - timedelta(days=1))]
    (tmp_path / "other").mkdir()
    still = Monitor(Checkout(checkout(tmp_path / "other", prefect[1])), Clock(LATE)).check()
    assert still is not None
    assert still.details["seen"] == ["run brave-ox of 2026-11-24 02:00 UTC is still running"]


def test_paused_pool_is_named(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].pool["is_paused"] = True

    notice = Monitor(Checkout(checkout(tmp_path, prefect[1])), Clock(LATE)).check()

    assert notice is not None
    assert notice.details["seen"] == ["work pool mmalign is paused"]


def test_paused_schedule_is_ignored_while_prefect_is_silent(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    server.deployment["schedules"][0]["active"] = False  # type: ignore[index]
    root = checkout(tmp_path, port)
    monitor = Monitor(Checkout(root), Clock(LATE))
    assert monitor.check() is None

    server.status = 503

    assert [monitor.check() for _ in range(5)] == [None] * 5


def test_missing_or_later_deployment_is_not_missed(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    root = checkout(tmp_path, prefect[1], deployed=DUE + timedelta(minutes=5))
    assert Monitor(Checkout(root), Clock(LATE)).check() is None

    (state_folder(Checkout(root)) / DEPLOYED).unlink()

    assert Monitor(Checkout(root), Clock(LATE)).check() is None


def test_silent_server_counts_after_three_checks(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    root = checkout(tmp_path, port)
    server.runs = [run_of(DUE, DUE)]
    monitor = Monitor(Checkout(root), Clock(LATE))
    server.status = 503
    assert [monitor.check(), monitor.check()] == [None, None]
    server.status = 200
    assert monitor.check() is None

    server.status = 503
    assert [monitor.check(), monitor.check()] == [None, None]
    notice = monitor.check()

    assert notice is not None
    assert notice.details["seen"][0].startswith("Prefect does not answer (HTTPError")


def test_lost_deployment_notice_names_cure(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].status = 404
    monitor = Monitor(Checkout(checkout(tmp_path, prefect[1])), Clock(LATE))

    notice = [monitor.check() for _ in range(3)][-1]

    assert notice is not None
    assert "mmalign deploy" in notice.details["seen"][0]


def test_deployment_schedule_overrides_settings(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    prefect[0].deployment["schedules"] = [{"active": True, "schedule": {"cron": "30 4 * * *", "timezone": "Europe/Berlin"}}]
    root = checkout(tmp_path, prefect[1])

    notice = Monitor(Checkout(root), Clock(datetime(2026, 11, 25, 4, 1, tzinfo=UTC))).check()

    assert notice is not None
    assert notice.title == "nightly 2026-11-25 04:30 CET did not begin"
    assert read_json(state_folder(Checkout(root)) / "sentinel.json")["told"] == "2026-11-25T03:30:00+00:00"


@pytest.mark.parametrize(
    ("cron", "zone", "before", "due"),
    [
        ("0 2 * * *", "UTC", "2026-11-25T02:00:00+00:00", "2026-11-25T02:00:00+00:00"),
        ("0 2 * * *", "UTC", "2026-11-25T01:59:59+00:00", "2026-11-24T02:00:00+00:00"),
        ("0 2 * * 1-5", "UTC", "2026-11-22T12:00:00+00:00", "2026-11-20T02:00:00+00:00"),
        ("0 2 * * *", "Europe/Berlin", "2026-07-01T12:00:00+00:00", "2026-07-01T00:00:00+00:00"),
        ("0 3 * * *", "Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-25T02:00:00+00:00"),
    ],
)
def test_last_due_time_respects_time_zone(cron: str, zone: str, before: str, due: str) -> None:
    assert Schedule(cron, zone).last_due(datetime.fromisoformat(before)) == datetime.fromisoformat(due)


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
        due = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)  # each hour by the schedule of the script

        # A run began within this hour, and none in the hour before.
        missed = Monitor(Checkout(root), Clock(due)).check()
        begun = Monitor(Checkout(root), Clock(due + timedelta(hours=1))).check()

        assert missed is not None
        assert "no worker of pool probe is alive" in missed.details["seen"]
        assert any("began only at" in one for one in missed.details["seen"])
        assert begun is None
        assert read_json(state_folder(Checkout(root)) / "sentinel.json")["schedule"] == {
            "cron": "0 * * * *",
            "timezone": "UTC",
            "active": True,
        }
    finally:
        server.terminate()
        server.wait(30)


# Waits for the server, deploys a flow by the client's own calls, and lets one run of it begin.
REAL = """
import time
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Running

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
    run = client.create_flow_run_from_deployment(made)
    client.set_flow_run_state(run.id, Running(), force=True)
    print(made)
"""
