"""The flow of a whole run, the same for a person's `mmalign run` and for every deployment. Each stage is a task of it.

`mmalign run` has checked everything and holds the checkout's lock when it starts the flow. A run of a deployment does that itself:

1. It checks its parameters. A poll for new data ends here if there is none.
2. It waits for its locks: one run at a time in a deployment and in a checkout.
3. It repeats stages after faults of the machine (killed, out of memory, disk full, a server away) after growing pauses, and each attempt
   goes on from the last checkpoint. It does not repeat mistakes or failed trainings.
4. Page, notices, pushes and cleaning follow, however the run ended.

Every process that this one starts ends with it. When this process is killed, an automation restarts the run (flows/automations.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from signal import SIGTERM
from threading import Event
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import deployment as this_deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelled as CancelledState
from prefect.states import Completed

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.files import version_of
from components.operations.environment import enter_checkout
from components.operations.preconditions.readiness import make_ready
from components.processes.fault_kinds import fault_kind
from components.processes.faults import RunOutcome, outcome_of
from components.processes.guard import lock_holder, run_lock, try_lock, wait_for_lock
from components.processes.redaction import redactor
from components.storage.clones import deployed_checkout
from components.tracking.store import ExperimentDeleted
from flows.after_run import ScheduledRun, after_run, notify
from flows.attempts import Attempts, attempts_file, pauses
from flows.cancellation import RunCancelled, cancellation
from flows.console import Console, LoggerStream
from flows.new_data import describe_failed_run, describe_new_data
from flows.parameters import MISTAKE, RunParameters
from flows.run_page import Page
from flows.run_states import cancel_requested, close_open_tasks, ending_with_record, failed, final_state
from flows.whole_run import whole_run
from flows.workspace import Workspace, enter_workspace, open_workspace

DEFAULTS = RunParameters()


@flow(name="pipeline-run", retries=0, persist_result=False, log_prints=False)
def pipeline_run(run: RunParameters = DEFAULTS) -> State[Any]:
    """Commit changed data, run stale stages, judge and promote models, write the summary."""
    checkout = enter_checkout()
    with cancellation() as cancel:
        if this_deployment.id is None:
            console = Console()
            try:
                whole_run(checkout, run, submit=Attempts([], None, cancel, console.print).submit, cancel=cancel, console=console)
            except RunCancelled as cancelled:
                return CancelledState(message=str(cancelled))
            except (UserError, StageFault) as error:  # the caller gets it from the state
                return failed(redactor(checkout).clean(str(error)), error)
            return Completed()
        return _scheduled_run(checkout, run, Console(LoggerStream(get_run_logger())), cancel)


def _scheduled_run(checkout: Checkout, parameters: RunParameters, console: Console, cancel: Event) -> State[Any]:
    """A run of a deployment, which works in `checkout`."""
    try:
        deployed = deployed_checkout(checkout)
        settings = deployed.settings()
    except UserError as error:  # where notices go is unknown without settings
        return _failed(outcome_of(error), redactor(checkout).clean(str(error)))
    run_id, deployment = str(this_run.id), str(this_deployment.name or "by hand")
    run = ScheduledRun(deployed, settings, parameters, run_id, deployment, f"{deployment} {this_run.name or run_id}", console, cancel)
    try:
        with ending_with_record(run_id, cancel, console.print):
            return _unattended(run)
    except RunCancelled as cancelled:
        console.print(str(cancelled))
        if cancel_requested(run_id):
            return CancelledState(message=str(cancelled))
        by_hand = final_state(run_id)
        if by_hand is not None:
            return by_hand
        # The worker or the machine shuts down: the run ends as Crashed, and an automation restarts it.
        raise TerminationSignal(SIGTERM) from cancelled
    except _NothingToDo as reason:
        return Completed(message=str(reason))
    except Exception as error:
        outcome = RunOutcome(fault_kind(error), str(error))
        if not parameters.only_new_data:  # the next poll follows within minutes
            notify(run, None, outcome, checkout=deployed)
        if isinstance(error, UserError):
            return _failed(outcome, str(error))
        raise


def _unattended(run: ScheduledRun) -> State[Any]:
    """A run from its parameters to its end. Raises RunCancelled, _NothingToDo, UserError."""
    before: list[str] = []
    if run.parameters.recovers:
        run, crashed = _recovered(run, run.parameters.recovers)
        before = [f"run {crashed} crashed"]
    if run.parameters.only_new_data:
        _require_new_data(run)
    origin = run.parameters.goes_on_from or run.run_id
    with (
        _deployment_lock(run),
        _workspace_lock(run, open_workspace(run.checkout, run.parameters, origin)) as workspace,
    ):
        close_open_tasks(UUID(str(this_deployment.id)))
        enter_workspace(run.checkout, workspace, run.parameters, run.console.print, run.cancel)
        earlier = version_of(workspace.checkout.summary)
        page = Page(run.checkout, workspace.checkout, run.console.print)
        file = attempts_file(workspace.checkout, origin)
        if not run.parameters.recovers:  # a person who resumes a run wants all attempts anew
            file.unlink(missing_ok=True)
        attempts = Attempts(pauses(run.settings.deployments), file, run.cancel, run.console.print)
        with page.following():
            outcome = _repeated(run, workspace.checkout, attempts)
        if outcome.kind == "ok":
            file.unlink(missing_ok=True)
        message = after_run(run, workspace, outcome, [*before, *attempts.troubles], earlier=earlier, page=page)
    return Completed(message=message) if outcome.kind == "ok" else _failed(outcome, message)


def _repeated(run: ScheduledRun, checkout: Checkout, attempts: Attempts) -> RunOutcome:
    """Run until it succeeds, fails for good, or a fault of the infrastructure outside a stage has used up the retries. Raises RunCancelled."""
    for pause in [*pauses(run.settings.deployments), None]:
        outcome = _once(run, checkout, attempts)
        if outcome.kind != "infrastructure" or outcome.stage is not None or pause is None:  # a stage has had its own retries
            break
        attempts.troubles.append(outcome.sentence)
        run.console.print(f"{outcome.sentence}; the next attempt starts in {pause:g} s")
        if run.cancel.wait(pause):
            raise RunCancelled("the run was cancelled before its next attempt")
    return outcome


def _once(run: ScheduledRun, checkout: Checkout, attempts: Attempts) -> RunOutcome:
    parameters = run.parameters
    try:
        ready = make_ready(
            checkout,
            run.console.print,
            overrides=parameters.overrides,
            stages=parameters.stages,
            accept_data=parameters.accept_data,
            bundled_rows=parameters.bundled_rows,
        )
        if not parameters.stages:
            from components.rehearsal.first import rehearse_first

            rehearse_first(checkout, ready.to_run, run.console.print)
        whole_run(checkout, parameters, submit=attempts.submit, cancel=run.cancel, console=run.console)
    except RunCancelled:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever it is, the run's page and its notices say so
        outcome = outcome_of(error)
        return replace(outcome, sentence=redactor(run.checkout).clean(outcome.sentence))
    return RunOutcome("ok")


def _failed(outcome: RunOutcome, message: str) -> State[Any]:
    return failed(message, None, MISTAKE if outcome.kind == "mistake" else "Failed")


def _recovered(run: ScheduledRun, crashed: str) -> tuple[ScheduledRun, str]:
    """The run with parameters and workspace of the crashed run, and that run's name. UserError where that one was a restart itself."""
    with get_client(sync_client=True) as client:
        before = client.read_flow_run(UUID(crashed))
    if cancel_requested(crashed):
        raise _NothingToDo(f"run {before.name} was cancelled, so it is not restarted")
    parameters = RunParameters.model_validate(before.parameters.get("run") or {})
    if parameters.recovers:
        raise UserError(f"run {before.name} crashed after a restart: it is not restarted twice; `mmalign resume` continues it")
    # The crashed run has found its new data already.
    update = {"recovers": crashed, "goes_on_from": parameters.goes_on_from or crashed, "only_new_data": False}
    return replace(run, parameters=parameters.model_copy(update=update)), before.name


class _NothingToDo(Exception):
    """Why a run ends at once, and well."""


def _require_new_data(run: ScheduledRun) -> None:
    """Raises _NothingToDo where there are no new data, the last run failed on these, or another run has the lock."""
    path = run.checkout.locks / "run.lock"
    lock = try_lock(path)
    if lock is None:
        raise _NothingToDo(f"another run is under way ({lock_holder(path)}); the next poll decides")
    lock.release()
    try:
        new_data = describe_new_data(run.checkout, run.parameters)
    except ExperimentDeleted as error:  # what has been trained on is unknown until a person restores the record
        raise _NothingToDo(str(error)) from error
    if new_data is None:
        raise _NothingToDo("no new data")
    failed = describe_failed_run(run.checkout, run.parameters)
    if failed is not None:
        raise _NothingToDo(failed)
    run.console.print(new_data)


@contextmanager
def _deployment_lock(run: ScheduledRun) -> Iterator[None]:
    """One run at a time in a deployment, whatever its source."""
    path = run.checkout.locks / f"deployment-{run.deployment}.lock"
    wait_minutes = run.settings.deployments.wait_minutes
    lock = wait_for_lock(path, wait_minutes * 60, run.cancel, run.console.print, f"mmalign, {run.name}")
    if run.cancel.is_set():
        if lock is not None:
            lock.release()
        raise _cancelled_while_waiting()
    if lock is None:
        raise UserError(f"the run waited {wait_minutes:g} minutes for its lock (deployments.wait_minutes): {lock_holder(path)}")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _workspace_lock(run: ScheduledRun, workspace: Workspace) -> Iterator[Workspace]:
    """One run at a time in a folder: the flow waits for a person's `mmalign run` there too."""
    wait_seconds = run.settings.deployments.wait_minutes * 60
    try:
        with run_lock(workspace.checkout, wait_seconds, run.cancel, run.console.print, f"mmalign, {run.name}"):
            yield workspace
    except UserError:
        if run.cancel.is_set():
            raise _cancelled_while_waiting() from None
        raise


def _cancelled_while_waiting() -> RunCancelled:
    return RunCancelled("the run was cancelled while it waited for its lock")
