"""The service that reports scheduled runs which did not begin. supervisor runs `python -m flows.monitor ROOT`.

It also ends runs that lost their process while Prefect's server was down, and reports recovery runs that nothing restarts.

- Prefect plans the runs of `nightly` by its schedule and keeps when each was due. Each minute the monitor asks for the last one that was due
  `notices.late_minutes` ago. A run that had not begun by then is missed; the notice names the state of run, worker, pool and services.
- A server that is silent, has lost the deployment or plans no next run for so long is reported too: nothing begins until it works.
- A file records sent notices, so a restart repeats none. Times before the deployment don't count.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.files import read_json, write_json
from components.operations.notices.notice import Notice
from components.operations.notices.send import keep, send_waiting
from components.operations.services.state import DEPLOYED
from components.operations.services.supervision import states
from components.processes.secrets import read_secrets, state_folder
from flows.flow_runs import abandoned_runs, end_lost_runs, runs_of, server_client

CHECK_SECONDS = 60.0
SEND_EVERY_CHECKS = 10  # checks between two tries to send waiting notices
CHECKS_ANSWERED = 3  # in a row with a reply; by then the heartbeats of all live runs have arrived
SCHEDULED = "auto-scheduled"  # Prefect's tag of runs that a schedule planned
NOTICED = 200  # missed runs that the state remembers
STATE = "sentinel.json"  # in the state folder, under the service's name

Clock = Callable[[], datetime]


class Monitor:
    """Monitors the scheduled runs of one checkout. `clock` returns the current time, with a zone."""

    def __init__(self, checkout: Checkout, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._checkout = checkout
        self._clock = clock
        self._broken_since: datetime | None = None
        self._answered = 0

    def check(self) -> Notice | None:
        """Check once for a missed run. Returns the notice that this wrote, or None."""
        deployed = state_folder(self._checkout) / DEPLOYED
        nightly = read_json(deployed).get("nightly") if deployed.is_file() else None
        if nightly is None:
            return None
        settings = self._checkout.settings()
        late = timedelta(minutes=settings.notices.late_minutes)
        since = datetime.fromtimestamp(deployed.stat().st_mtime, UTC)
        try:
            with server_client(self._checkout) as client:
                notice = self._missed(client, UUID(nightly), since, late)
        except UserError as error:  # the server is away, too
            self._answered = 0
            self._broken_since = self._broken_since or self._clock()
            if self._clock() - self._broken_since < late or self._state().get("broken"):
                return None
            title = f"nightly can't begin since {_moment(self._broken_since, settings)}"
            return self._write(
                Notice("missed", title, _listed(title, [str(error), *self._services()]), {"seen": [str(error)]}), broken=True
            )
        self._broken_since = None
        self._answered += 1
        if self._state().get("broken"):
            self._write_state(broken=False)
        return notice and self._write(notice, noticed=[*self._noticed(), notice.details["due"]][-NOTICED:])

    def check_runs(self) -> list[str]:
        """End lost runs, and write a notice for each abandoned one. Returns a sentence for each."""
        if self._answered < CHECKS_ANSWERED:
            return []
        settings = self._checkout.settings()
        ended = end_lost_runs(self._checkout, settings.deployments.crashed_after_seconds + CHECKS_ANSWERED * CHECK_SECONDS)
        sentences = [f"ended run {name}, which had lost its process" for name in ended]
        reported = set(self._state().get("given_up", []))
        for run in abandoned_runs(self._checkout):
            if str(run.id) not in reported:
                title = f"run {run.name} crashed before it began"
                text = f"It was to recover a crashed run, and nothing restarts it. {_message(run)}\nRun `mmalign doctor`, then `mmalign resume`."
                reported.add(str(run.id))
                self._write(Notice("failed", title, text, {"flow_run": str(run.id)}), given_up=sorted(reported))
                sentences.append(title)
        return sentences

    def _missed(self, client: SyncPrefectClient, nightly: UUID, since: datetime, late: timedelta) -> Notice | None:
        """The notice of the last run that was due, where that did not begin in time. Raises UserError where none can begin."""
        now = self._clock()
        try:
            deployment = client.read_deployment(nightly)
        except ObjectNotFound as error:
            raise UserError("Prefect has lost the deployment: run `mmalign deploy`") from error
        if deployment.paused or not any(schedule.active for schedule in deployment.schedules):
            return None
        if not runs_of(client, [nightly], 1, state={"type": {"any_": [StateType.SCHEDULED]}}, expected_start_time={"after_": now}):
            raise UserError("Prefect plans no next run: see `mmalign logs --service prefect`, and run `mmalign deploy`")
        window = {"after_": since, "before_": now - late}
        run = next(iter(runs_of(client, [nightly], 1, tags={"all_": [SCHEDULED]}, expected_start_time=window)), None)
        due = run.expected_start_time if run is not None else None
        if run is None or due is None or (run.start_time and run.start_time <= due + late) or due.isoformat() in self._noticed():
            return None
        settings = self._checkout.settings()
        seen = [
            f"run {run.name} began only at {_moment(run.start_time, settings)}" if run.start_time else f"run {run.name} is {_message(run)}"
        ]
        working = {"type": {"any_": [StateType.RUNNING, StateType.CANCELLING]}}
        under_way = runs_of(client, [nightly], 5, state=working, start_time={"before_": due})
        seen += [
            f"run {other.name} of {_moment(other.start_time or due, settings)} is still {str(other.state_name).lower()}"
            for other in under_way
        ]
        seen += [*self._pool(client, deployment.work_pool_name, settings), *self._services()]
        moment = _moment(due, settings)
        first = f"No run of nightly began within {settings.notices.late_minutes:g} minutes of {moment}."
        return Notice("missed", f"nightly {moment} did not begin", _listed(first, seen), {"due": due.isoformat(), "seen": seen})

    def _pool(self, client: SyncPrefectClient, name: str | None, settings: Settings) -> list[str]:
        """The faults of the deployment's work pool and of its workers."""
        if not name:
            return ["the deployment has no work pool: run `mmalign deploy`"]
        try:
            workers = client.read_workers_for_work_pool(name)
            wrong = [f"work pool {name} is paused"] if client.read_work_pool(name).is_paused else []
        except ObjectNotFound:
            return [f"there is no work pool {name}: run `mmalign deploy`"]
        if not any(worker.status == "ONLINE" for worker in workers):
            last = max((worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time), default=None)
            wrong.append(f"no worker of pool {name} is alive" + (f"; the last one was seen at {_moment(last, settings)}" if last else ""))
        return wrong

    def _services(self) -> list[str]:
        try:
            services = states(self._checkout, read_secrets(self._checkout))
        except UserError as error:
            return [str(error)]
        return [f"service {name} is {state}" for name, state in sorted(services.items()) if state != "RUNNING"]

    def _write(self, notice: Notice, **state: Any) -> Notice:
        """Write a notice, then the state: a kill in between repeats the notice rather than losing it."""
        keep(self._checkout, self._checkout.settings().notices, notice)
        self._write_state(**state)
        return notice

    def _state(self) -> dict[str, Any]:
        path = state_folder(self._checkout) / STATE
        saved: dict[str, Any] = read_json(path) if path.is_file() else {}
        return saved

    def _noticed(self) -> list[str]:
        """When the runs were due that a notice has reported. A clock that is set back makes the monitor see them again."""
        noticed = self._state().get("noticed", [])
        return [noticed] if isinstance(noticed, str) else list(noticed)  # one text: the state of an earlier version

    def _write_state(self, **values: Any) -> None:
        write_json(state_folder(self._checkout) / STATE, {**self._state(), **values})


def _listed(first: str, seen: list[str]) -> str:
    return "\n".join([first, *(f"- {one}" for one in seen)])


def _message(run: FlowRun) -> str:
    message = run.state.message if run.state is not None else None
    return f"{run.state_name}" + (f": {message}" if message else "")


def _moment(moment: datetime, settings: Settings) -> str:
    return moment.astimezone(ZoneInfo(settings.deployments.timezone)).strftime("%Y-%m-%d %H:%M %Z")


def main(checkout: Checkout) -> None:
    """Check each minute, until the process ends."""
    monitor = Monitor(checkout)
    for number in itertools.count(1):
        time.sleep(CHECK_SECONDS)
        try:
            notice = monitor.check()
            sentences = [*([notice.text] if notice is not None else []), *monitor.check_runs()]
            for sentence in sentences:
                log(sentence)
            if sentences or number % SEND_EVERY_CHECKS == 0:
                send_waiting(checkout, log=log)
        except Exception as error:  # noqa: BLE001 -- the next check comes in a minute
            log(f"this check failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def log(text: str) -> None:
    """Write a line to the service's log, unbuffered."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    main(Checkout(Path(sys.argv[1])))
