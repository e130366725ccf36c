"""The service that notices a night which did not begin: `python -m components.operations.services.monitor ROOT`, under supervisor.

It also ends runs that lost their process while Prefect's server was down, and tells of runs that nothing starts again.

- Each minute it looks for the last time at which the deployment `nightly` was due, and asks Prefect for a run of it that began since then.
  When there is none `notices.late_minutes` later, one notice says so, with what was seen: server, worker, pool, the run's own state.
- A server that is away at that time counts by itself, once three looks in a row have found it so.
- The schedule is the deployment's own, as Prefect knew it last; a paused one is watched no more than one that was never deployed.
- What was told is written down, so that a restart tells nothing twice. Times before the deployment don't count.
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

from components.config.settings import Settings, load_settings
from components.errors import UserError
from components.files import read_json, write_json
from components.operations.notices.notice import Notice
from components.operations.notices.send import keep, send_waiting
from components.operations.services.lost_runs import abandoned_runs, end_lost_runs
from components.operations.services.prefect_rest import ask
from components.operations.services.state import DEPLOYED
from components.processes.secrets import read_secrets, state_folder

CHECK_SECONDS = 60.0
SEND_EVERY_CHECKS = 10  # looks between two tries to send what waits
CHECKS_ANSWERED = 3  # in a row with an answer, after which runs that give no sign are lost: a live one's heartbeat has come in by then
CHECKS_UNANSWERED = 3  # in a row with no answer from Prefect, after which that counts: a restart takes less
EARLY = timedelta(minutes=1)  # a run may begin a moment before its time by the clock of the machine that started it
STATE = "sentinel.json"

Look = Callable[[], datetime]


@dataclass(frozen=True)
class Schedule:
    """When nights are due, by a clock of a time zone. Nobody waits for an `active` one that is False."""

    cron: str
    timezone: str
    active: bool = True

    def last_due(self, before: datetime) -> datetime | None:
        """The last time at or before `before`; None for a schedule that never comes."""
        from cronsim import CronSim, CronSimError

        # Backwards it gives times before the one it is given, so that this one itself may be among them.
        begin = before.astimezone(ZoneInfo(self.timezone)) + timedelta(seconds=1)
        try:
            return next(CronSim(self.cron, begin, reverse=True)).astimezone(UTC)
        except (CronSimError, StopIteration):
            return None


class Monitor:
    """Looks after the nights of one checkout. `clock` gives the time now, with a zone."""

    def __init__(self, root: Path, clock: Look = lambda: datetime.now(UTC)) -> None:
        self._root = root
        self._clock = clock
        self._away = 0
        self._there = 0

    def look(self) -> Notice | None:
        """Look once; the notice that was kept, None where there is nothing to tell."""
        deployed = state_folder(self._root) / DEPLOYED
        deployment = read_json(deployed).get("nightly") if deployed.is_file() else None
        if deployment is None:
            return None
        settings = load_settings(self._root / "params.yaml")
        try:
            schedule = self._schedule(deployment)
            self._away = 0
            self._there += 1
        except (OSError, ValueError) as error:
            self._away += 1
            self._there = 0
            schedule = self._known_schedule(settings)
            if self._away < CHECKS_UNANSWERED:
                return None
            gone = isinstance(error, HTTPError) and error.code == HTTPStatus.NOT_FOUND
            why = "Prefect has no such deployment any more: run `mmalign deploy`" if gone else f"Prefect does not answer ({_words(error)})"
        else:
            why = ""
        due = schedule.last_due(self._clock() - timedelta(minutes=settings.notices.late_minutes))
        since = datetime.fromtimestamp(deployed.stat().st_mtime, UTC)
        if due is None or not schedule.active or due <= since or due.isoformat() == self._state().get("told"):
            return None
        seen = [why] if why else self._what_is_wrong(deployment, due, settings)
        if seen is None:
            return None
        notice = _notice(due, schedule, settings.notices.late_minutes, [*seen, *self._services()])
        keep(self._root, settings.notices, notice)
        self._write_state(told=due.isoformat())  # after the notice is safe: a kill in between tells it twice rather than never
        return notice

    def check_runs(self) -> list[str]:
        """End lost runs, keep a notice of those that are given up; what was done, in sentences."""
        if self._there < CHECKS_ANSWERED:
            return []
        settings = load_settings(self._root / "params.yaml")
        ended = end_lost_runs(self._root, settings.deployments.crashed_after_seconds + CHECKS_ANSWERED * CHECK_SECONDS)
        done = [f"run {name} had lost its process and is ended" for name in ended]
        told = set(self._state().get("given_up", []))
        for run in abandoned_runs(self._root):
            if run["id"] not in told:
                title = f"run {run['name']} crashed before it began"
                message = (run.get("state") or {}).get("message") or ""
                text = f"It was to go on for a run that had crashed; nothing starts it again. {message}\nTry `mmalign doctor`, then `mmalign resume`."
                keep(self._root, settings.notices, Notice("failed", title, text, {"flow_run": run["id"]}))
                told.add(run["id"])
                self._write_state(abandoned_runs=sorted(told))
                done.append(title)
        return done

    def _schedule(self, deployment: str) -> Schedule:
        """The deployment's schedule as Prefect has it, kept for when it is away."""
        told = ask(self._root, f"deployments/{deployment}")
        for entry in told["schedules"]:
            if "cron" in entry["schedule"]:
                active = bool(entry["active"]) and not told["paused"]
                found = Schedule(entry["schedule"]["cron"], entry["schedule"].get("timezone") or "UTC", active)
                break
        else:
            found = Schedule("0 0 1 1 *", "UTC", active=False)  # its schedule was taken away
        if self._state().get("schedule") != vars(found):
            self._write_state(schedule=vars(found))
        return found

    def _known_schedule(self, settings: Settings) -> Schedule:
        known = self._state().get("schedule")
        return Schedule(**known) if known else Schedule(settings.deployments.cron, settings.deployments.timezone)

    def _what_is_wrong(self, deployment: str, due: datetime, settings: Settings) -> list[str] | None:
        """None where a run began in time, else what Prefect tells of why not."""
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

    def _runs(self, deployment: str, of: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": of, "limit": 5, "sort": "EXPECTED_START_TIME_DESC"}
        found: list[dict[str, Any]] = ask(self._root, "flow_runs/filter", body)
        return found

    def _pool(self, deployment: str) -> list[str]:
        """What is wrong with the pool that the deployment runs in, and with its workers."""
        name = ask(self._root, f"deployments/{deployment}").get("work_pool_name")
        if not name:
            return ["the deployment has no work pool: run `mmalign deploy`"]
        try:
            pool = ask(self._root, f"work_pools/{name}")
        except OSError as error:
            return [f"its work pool {name} can't be read ({_words(error)})"]
        workers = ask(self._root, f"work_pools/{name}/workers/filter", {})
        online = [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
        wrong = [f"work pool {name} is paused"] if pool["is_paused"] else []
        if not online:
            last = max((worker["last_heartbeat_time"] for worker in workers if worker["last_heartbeat_time"]), default=None)
            wrong.append(f"no worker of pool {name} is alive" + (f"; the last one was seen at {_moment(last)}" if last else ""))
        return wrong

    def _services(self) -> list[str]:
        from components.operations.services.supervision import states

        try:
            found = states(self._root, read_secrets(self._root))
        except UserError as error:
            return [str(error)]
        return [f"service {name} is {state}" for name, state in sorted(found.items()) if state != "RUNNING"]

    def _state(self) -> dict[str, Any]:
        path = state_folder(self._root) / STATE
        known: dict[str, Any] = read_json(path) if path.is_file() else {}
        return known

    def _write_state(self, **values: Any) -> None:
        write_json(state_folder(self._root) / STATE, {**self._state(), **values})


def _notice(due: datetime, schedule: Schedule, late_minutes: float, seen: list[str]) -> Notice:
    moment = due.astimezone(ZoneInfo(schedule.timezone)).strftime("%Y-%m-%d %H:%M %Z")
    text = "\n".join([f"No run of nightly began within {late_minutes:g} minutes of {moment}.", *(f"- {one}" for one in seen)])
    facts = {"due": due.isoformat(), "cron": schedule.cron, "timezone": schedule.timezone, "seen": seen}
    return Notice("missed", f"nightly {moment} did not begin", text, facts)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main(root: Path) -> None:
    """Look each minute, until the process is ended."""
    sentinel = Monitor(root)
    for number in itertools.count(1):
        time.sleep(CHECK_SECONDS)
        try:
            notice = sentinel.look()
            if notice is not None:
                say(notice.text)
            done = sentinel.check_runs()
            for sentence in done:
                say(sentence)
            if notice is not None or done or number % SEND_EVERY_CHECKS == 0:
                send_waiting(root, say=say)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong at this minute, the next one is looked at
            say(f"this look failed: {_words(error)}")


def say(text: str) -> None:
    """Write to the service's log at once."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
