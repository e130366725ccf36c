"""The flow `night`, which the deployments run: everything that a run needs when nobody watches.

1. parameters are checked; a look for new data that finds none ends here;
2. the run waits for its turn: one at a time in a deployment and in a checkout;
3. `mmalign run` does the work in a process of its own. When the machine fails it (killed, out of memory, disk full, a server away) it is
   started again after growing pauses and goes on from the last checkpoint; a mistake or a failed training is not tried again;
4. page, notices, pushes and cleaning follow, whatever the end was.

What this process starts ends with it. When it is itself killed, an automation starts the run again (flows/automations.py).
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment as this_deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelled as CancelledState
from prefect.states import Completed, Failed

from components.config.settings import Settings, load_settings
from components.errors import UserError
from components.files import read_json
from components.operations.environment import enter_checkout
from components.processes.fault_kinds import fault_kind
from components.processes.guard import GRACE_SECONDS, RUN_LOCK, Lock, lock_holder, run_lock, try_lock, wait_for_lock
from components.processes.marks import DEPLOYMENT, FLOW_RUN, kill_all, marked
from components.processes.outcome import OUTCOME, RunOutcome, read_outcome
from components.report.run_record import SUMMARY
from flows.aftermath import aftermath, tell
from flows.cancellation import RunCancelled, cancellation
from flows.news import data_news
from flows.night_page import Page
from flows.parameters import MISTAKE, NightParameters
from flows.retries import is_retried, pauses
from flows.run_states import asked_to_cancel, mend_inner_runs
from flows.screen import Screen
from flows.supervisor import supervise
from flows.workplace import Workplace, open_workplace

PROGRESS_SECONDS = 10.0
END_SECONDS = GRACE_SECONDS + 4  # that `mmalign run` has to end its stages and close its record: Prefect gives this process 30
DEFAULTS = NightParameters()


@dataclass(frozen=True)
class Night:
    """One run of a deployment."""

    root: Path
    settings: Settings
    run: NightParameters
    run_id: str
    deployment: str
    screen: Screen
    cancel: threading.Event

    @property
    def name(self) -> str:
        """What people know it by."""
        return f"{self.deployment} {this_run.name or self.run_id}"


@flow(name="night", retries=0, persist_result=False, log_prints=False)
def night(run: NightParameters = DEFAULTS) -> State[Any]:
    """Run the pipeline unattended: wait for the turn, run, try again after faults of the machine, tell what came of it."""
    root = enter_checkout()
    screen = Screen(_Log(get_run_logger()))
    with cancellation() as cancel:
        it = Night(root, load_settings(), run, str(this_run.id), str(this_deployment.name or "by hand"), screen, cancel)
        try:
            return _unattended(it)
        except RunCancelled as cancelled:
            screen.say(str(cancelled))
            if asked_to_cancel(it.run_id):
                return CancelledState(message=str(cancelled))
            # The worker or the machine goes down: the run ends as Crashed, and is started again.
            raise TerminationSignal(SIGTERM) from cancelled
        except _NothingToDo as reason:
            return Completed(message=str(reason))
        except Exception as error:
            outcome = RunOutcome(fault_kind(error), str(error))
            if not run.only_new_data:  # the next look comes in minutes
                tell(root, it.settings, None, outcome, name=it.name, folder=root, troubles=[], say=screen.say)
            if isinstance(error, UserError):
                return _failed(outcome, str(error))
            raise


def _unattended(it: Night) -> State[Any]:
    """A run from its parameters to its end. Raises RunCancelled, _NothingToDo, UserError."""
    before: list[str] = []
    if it.run.recovers:
        it, crashed = _recovered(it, it.run.recovers)
        before = [f"run {crashed} crashed"]
    if it.run.only_new_data:
        _find_news(it)
    with _turn(it), _workplace_turn(it, open_workplace(it.root, it.run, it.run.goes_on_from or it.run_id)) as (place, turn):
        began = time.time()
        page = Page(it.root, place.folder, it.screen.say)
        outcome, troubles = _attempts(it, place, turn, page)
        message = aftermath(
            it.root,
            place,
            it.settings,
            outcome,
            name=it.name,
            began=began,
            troubles=[*before, *troubles],
            page=page,
            cancel=it.cancel,
            say=it.screen.say,
        )
    return Completed(message=message) if outcome.kind == "ok" else _failed(outcome, message)


def _failed(outcome: RunOutcome, message: str) -> State[Any]:
    return Failed(name=MISTAKE if outcome.kind == "mistake" else "Failed", message=message)


def _recovered(it: Night, crashed: str) -> tuple[Night, str]:
    """The run with the parameters of the one that crashed, in its workplace, and that one's name. UserError where that was itself started
    again."""
    with get_client(sync_client=True) as client:
        before = client.read_flow_run(UUID(crashed))
    if asked_to_cancel(crashed):
        raise _NothingToDo(f"run {before.name} was cancelled, and is not started again")
    given = NightParameters.model_validate(before.parameters.get("run") or {})
    if given.recovers:
        raise UserError(f"run {before.name} crashed, and had itself been started again after a crash: it is not started a third time")
    # What it looked for was found before.
    update = {"recovers": crashed, "goes_on_from": given.goes_on_from or crashed, "only_new_data": False}
    return replace(it, run=given.model_copy(update=update)), before.name


class _NothingToDo(Exception):
    """Why a run ends at once, and well."""


def _find_news(it: Night) -> None:
    """Raises _NothingToDo where a look for new data finds none, or another run has the turn."""
    lock = it.root / ".mmalign" / "locks" / "run.lock"
    held = try_lock(lock)
    if held is None:
        raise _NothingToDo(f"a run is under way ({lock_holder(lock)}); the next look decides")
    held.release()
    news = data_news(it.root, it.run)
    if news is None:
        raise _NothingToDo("no new data")
    it.screen.say(news)


@contextmanager
def _turn(it: Night) -> Iterator[None]:
    """One run at a time in a deployment, whatever its source."""
    path = it.root / ".mmalign" / "locks" / f"deployment-{it.deployment}.lock"
    lock = wait_for_lock(path, it.settings.deployments.wait_minutes * 60, it.cancel, it.screen.say, f"mmalign, {it.name}")
    _refuse(it, lock, path)
    try:
        yield
    finally:
        assert lock is not None
        lock.release()


@contextmanager
def _workplace_turn(it: Night, place: Workplace) -> Iterator[tuple[Workplace, Lock]]:
    """One run at a time in a folder: a person's `mmalign run` there is waited for too."""
    try:
        with run_lock(place.folder, it.settings.deployments.wait_minutes * 60, it.cancel, it.screen.say, f"mmalign, {it.name}") as lock:
            yield place, lock
    except UserError:
        if it.cancel.is_set():
            raise RunCancelled("the run was cancelled while it waited for its turn") from None
        raise


def _refuse(it: Night, lock: Lock | None, path: Path) -> None:
    if it.cancel.is_set():
        if lock is not None:
            lock.release()
        raise RunCancelled("the run was cancelled while it waited for its turn")
    if lock is None:
        raise UserError(
            f"its turn did not come within {it.settings.deployments.wait_minutes:g} minutes (deployments.wait_minutes): {lock_holder(path)}"
        )


def _attempts(it: Night, place: Workplace, turn: Lock, page: Page) -> tuple[RunOutcome, list[str]]:
    """Run until it ends well, fails for good, or the retries are used up; with what ended the tries before."""
    waits = pauses(it.settings.deployments)
    troubles: list[str] = []
    mend_inner_runs(it.run_id)
    while True:
        outcome = _attempt(it, place, turn, page)
        mend_inner_runs(it.run_id)
        if it.cancel.is_set():
            raise RunCancelled(outcome.sentence or "the run was cancelled")
        if not is_retried(outcome) or len(troubles) == len(waits):
            return outcome, troubles
        pause = waits[len(troubles)]
        troubles.append(outcome.sentence)
        it.screen.say(f"{outcome.sentence}; try {len(troubles) + 1} of {len(waits) + 1} in {pause:g} s")
        if it.cancel.wait(pause):
            raise RunCancelled("the run was cancelled before it was tried again")


def _attempt(it: Night, place: Workplace, turn: Lock, page: Page) -> RunOutcome:
    told = place.folder / ".mmalign" / f"outcome-{it.run_id}.json"
    told.unlink(missing_ok=True)
    log = place.folder / "logs" / f"{it.deployment}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    environment = {
        FLOW_RUN: it.run_id,
        DEPLOYMENT: it.deployment,
        OUTCOME: str(told),
        RUN_LOCK: str(turn.descriptor),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(place.folder), os.environ.get("PYTHONPATH", "")])),
    }
    with _shown(page, place.folder):
        done = supervise(
            [sys.executable, "-m", "components.cli.main", "run", *_arguments(it.run)],
            stage=it.deployment,
            root=place.folder,
            log=log,
            deadline_seconds=math.inf,  # each stage has its own
            cancel=it.cancel,
            screen=it.screen,
            environment=environment,
            grace_seconds=END_SECONDS,
            pass_fds=[turn.descriptor],
        )
    # Stages have marks of their own, which the supervisor does not know; this one all of them carry.
    kill_all(lambda: marked(FLOW_RUN, it.run_id))
    outcome = read_outcome(told, done.returncode)
    told.unlink(missing_ok=True)
    return outcome if outcome.log else replace(outcome, log=str(log.relative_to(place.folder)))


@contextmanager
def _shown(page: Page, folder: Path) -> Iterator[None]:
    """Keep the page's progress true while the block runs. reports/summary.json is whole at any time."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(PROGRESS_SECONDS):
            if (folder / SUMMARY).is_file():
                page.progress(read_json(folder / SUMMARY))

    thread = threading.Thread(target=copy_context().run, args=(follow,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PROGRESS_SECONDS)


def _arguments(run: NightParameters) -> list[str]:
    arguments = [word for override in run.overrides for word in ("--set", override)]
    arguments += [word for stage in run.stages for word in ("--only", stage)]
    return [*arguments, *(["--accept-data"] if run.accept_data else []), *([] if run.promote else ["--no-promote"])]


class _Log:
    """A stream whose lines go to the flow run's log."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def write(self, text: str) -> int:
        """Log each line."""
        for line in text.splitlines():
            self._logger.info(line)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""
