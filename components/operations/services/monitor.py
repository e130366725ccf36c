"""The service that reports scheduled runs which did not begin. supervisor runs `python -m components.operations.services.monitor ROOT`.

It also ends runs that lost their process while Prefect's server was down, and reports recovery runs that nothing restarts.

- Each minute it computes when the deployment `nightly` was last due, and asks Prefect for a run that began since then. Without one it writes
  a notice `notices.late_minutes` later. The notice names the state of server, worker, pool and run.
- A silent server is itself a reason for the notice, after three checks in a row.
- The schedule is the deployment's, as Prefect last reported it. Paused and missing schedules cause no notice.
- A file records sent notices, so a restart repeats none. Times before the deployment don't count.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from zoneinfo import ZoneInfo

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.files import read_json, write_json
from components.operations.notices.notice import Notice
from components.operations.notices.send import keep, send_waiting
from components.operations.services.lost_runs import abandoned_runs, end_lost_runs
from components.operations.services.prefect_rest import ask
from components.operations.services.state import DEPLOYED
from components.processes.secrets import read_secrets, state_folder

CHECK_SECONDS = 60.0
SEND_EVERY_CHECKS = 10  # checks between two tries to send waiting notices
CHECKS_ANSWERED = 3  # in a row with a reply; by then the heartbeats of all live runs have arrived
CHECKS_UNANSWERED = 3  # in a row without a reply, until Prefect counts as silent; a restart takes less
EARLY = timedelta(minutes=1)  # by its machine's clock, a run may begin a moment too early
STATE = "sentinel.json"  # in the state folder, under the service's name

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Schedule:
    """A cron schedule in a time zone. The monitor ignores a schedule that is not `active`."""

    cron: str
    timezone: str
    active: bool = True

    def last_due(self, before: datetime) -> datetime | None:
        """The last due time at or before `before`; None for a schedule without one."""
        from cronsim import CronSim, CronSimError

        # CronSim returns times strictly before its start, and `before` itself may be due.
        begin = before.astimezone(ZoneInfo(self.timezone)) + timedelta(seconds=1)
        try:
            return next(CronSim(self.cron, begin, reverse=True)).astimezone(UTC)
        except (CronSimError, StopIteration):
            return None


class Monitor:
    """Monitors the scheduled runs of one checkout. `clock` returns the current time, with a zone."""

    def __init__(self, checkout: Checkout, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._checkout = checkout
        self._clock = clock
        self._unanswered = 0
        self._answered = 0

    def check(self) -> Notice | None:
        """Check once for a missed run. Returns the notice that this wrote, or None."""
        deployed = state_folder(self._checkout) / DEPLOYED
        deployment = read_json(deployed).get("nightly") if deployed.is_file() else None
        if deployment is None:
            return None
        settings = self._checkout.settings()
        try:
            schedule = self._schedule(deployment)
            self._unanswered = 0
            self._answered += 1
        except (OSError, ValueError) as error:
            self._unanswered += 1
            self._answered = 0
            schedule = self._last_schedule(settings)
            if self._unanswered < CHECKS_UNANSWERED:
                return None
            missing = isinstance(error, HTTPError) and error.code == HTTPStatus.NOT_FOUND
            why = "Prefect has lost the deployment: run `mmalign deploy`" if missing else f"Prefect does not answer ({_words(error)})"
        else:
            why = ""
        due = schedule.last_due(self._clock() - timedelta(minutes=settings.notices.late_minutes))
        since = datetime.fromtimestamp(deployed.stat().st_mtime, UTC)
        if due is None or not schedule.active or due <= since or due.isoformat() == self._state().get("told"):
            return None
        seen = [why] if why else self._reasons(deployment, due, settings)
        if seen is None:
            return None
        notice = _notice(due, schedule, settings.notices.late_minutes, [*seen, *self._services()])
        keep(self._checkout, settings.notices, notice)
        self._write_state(told=due.isoformat())  # after the notice is on disk: a kill in between repeats the notice rather than losing it
        return notice

    def check_runs(self) -> list[str]:
        """End lost runs, and write a notice for each abandoned one. Returns a sentence for each."""
        if self._answered < CHECKS_ANSWERED:
            return []
        settings = self._checkout.settings()
        ended = end_lost_runs(self._checkout, settings.deployments.crashed_after_seconds + CHECKS_ANSWERED * CHECK_SECONDS)
        sentences = [f"ended run {name}, which had lost its process" for name in ended]
        reported = set(self._state().get("given_up", []))
        for run in abandoned_runs(self._checkout):
            if run["id"] not in reported:
                title = f"run {run['name']} crashed before it began"
                message = (run.get("state") or {}).get("message") or ""
                text = f"It was to recover a crashed run, and nothing restarts it. {message}\nRun `mmalign doctor`, then `mmalign resume`."
                keep(self._checkout, settings.notices, Notice("failed", title, text, {"flow_run": run["id"]}))
                reported.add(run["id"])
                self._write_state(given_up=sorted(reported))
                sentences.append(title)
        return sentences

    def _schedule(self, deployment: str) -> Schedule:
        """The deployment's schedule by Prefect. The state file keeps it for times without Prefect."""
        deployed = ask(self._checkout, f"deployments/{deployment}")
        for entry in deployed["schedules"]:
            if "cron" in entry["schedule"]:
                active = bool(entry["active"]) and not deployed["paused"]
                schedule = Schedule(entry["schedule"]["cron"], entry["schedule"].get("timezone") or "UTC", active)
                break
        else:
            schedule = Schedule("0 0 1 1 *", "UTC", active=False)  # the deployment has no schedule
        if self._state().get("schedule") != vars(schedule):
            self._write_state(schedule=vars(schedule))
        return schedule

    def _last_schedule(self, settings: Settings) -> Schedule:
        """The schedule that Prefect last reported, else the settings'."""
        saved = self._state().get("schedule")
        return Schedule(**saved) if saved else Schedule(settings.deployments.cron, settings.deployments.timezone)

    def _reasons(self, deployment: str, due: datetime, settings: Settings) -> list[str] | None:
        """Prefect's reasons for the missed run; None where a run began in time."""
        window = {"after_": (due - EARLY).isoformat(), "before_": (due + timedelta(minutes=settings.notices.late_minutes)).isoformat()}
        if self._runs(deployment, {"start_time": window}):
            return None
        seen = []
        late = self._runs(deployment, {"start_time": {"after_": window["before_"]}})
        if late:
            seen.append(f"run {late[0]['name']} began only at {_moment(late[0]['start_time'])}")
        for run in self._runs(deployment, {"expected_start_time": {"after_": (due - EARLY).isoformat(), "before_": window["before_"]}}):
            if not run["start_time"]:
                message = (run.get("state") or {}).get("message")
                seen.append(f"run {run['name']} is {run['state_name']}" + (f": {message}" if message else ""))
        under_way = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}, "start_time": {"before_": due.isoformat()}}
        seen += [
            f"run {run['name']} of {_moment(run['start_time'])} is still {run['state_name'].lower()}"
            for run in self._runs(deployment, under_way)
        ]
        return [*seen, *self._pool(deployment)] or ["Prefect has no run for that time"]

    def _runs(self, deployment: str, criteria: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": criteria, "limit": 5, "sort": "EXPECTED_START_TIME_DESC"}
        runs: list[dict[str, Any]] = ask(self._checkout, "flow_runs/filter", body)
        return runs

    def _pool(self, deployment: str) -> list[str]:
        """The faults of the deployment's work pool and of its workers."""
        name = ask(self._checkout, f"deployments/{deployment}").get("work_pool_name")
        if not name:
            return ["the deployment has no work pool: run `mmalign deploy`"]
        try:
            pool = ask(self._checkout, f"work_pools/{name}")
        except OSError as error:
            return [f"its work pool {name} can't be read ({_words(error)})"]
        workers = ask(self._checkout, f"work_pools/{name}/workers/filter", {})
        online = [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
        wrong = [f"work pool {name} is paused"] if pool["is_paused"] else []
        if not online:
            last = max((worker["last_heartbeat_time"] for worker in workers if worker["last_heartbeat_time"]), default=None)
            wrong.append(f"no worker of pool {name} is alive" + (f"; the last one was seen at {_moment(last)}" if last else ""))
        return wrong

    def _services(self) -> list[str]:
        from components.operations.services.supervision import states

        try:
            services = states(self._checkout, read_secrets(self._checkout))
        except UserError as error:
            return [str(error)]
        return [f"service {name} is {state}" for name, state in sorted(services.items()) if state != "RUNNING"]

    def _state(self) -> dict[str, Any]:
        path = state_folder(self._checkout) / STATE
        saved: dict[str, Any] = read_json(path) if path.is_file() else {}
        return saved

    def _write_state(self, **values: Any) -> None:
        write_json(state_folder(self._checkout) / STATE, {**self._state(), **values})


def _notice(due: datetime, schedule: Schedule, late_minutes: float, seen: list[str]) -> Notice:
    moment = due.astimezone(ZoneInfo(schedule.timezone)).strftime("%Y-%m-%d %H:%M %Z")
    text = "\n".join([f"No run of nightly began within {late_minutes:g} minutes of {moment}.", *(f"- {one}" for one in seen)])
    details = {"due": due.isoformat(), "cron": schedule.cron, "timezone": schedule.timezone, "seen": seen}
    return Notice("missed", f"nightly {moment} did not begin", text, details)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main(checkout: Checkout) -> None:
    """Check each minute, until the process ends."""
    monitor = Monitor(checkout)
    for number in itertools.count(1):
        time.sleep(CHECK_SECONDS)
        try:
            notice = monitor.check()
            if notice is not None:
                log(notice.text)
            sentences = monitor.check_runs()
            for sentence in sentences:
                log(sentence)
            if notice is not None or sentences or number % SEND_EVERY_CHECKS == 0:
                send_waiting(checkout, log=log)
        except Exception as error:  # noqa: BLE001 -- the next check comes in a minute
            log(f"this check failed: {_words(error)}")


def log(text: str) -> None:
    """Write a line to the service's log, unbuffered."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    main(Checkout(Path(sys.argv[1])))
