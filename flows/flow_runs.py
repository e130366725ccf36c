"""Runs of this checkout's deployments on its Prefect server: starts, finds, follows and cancels them, and ends those that lost their process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from signal import SIGTERM
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun, Log, State, StateType
from prefect.client.schemas.sorting import FlowRunSort, LogSort
from prefect.events.filters import EventFilter, EventOrder
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Cancelling, Crashed

from components.checkout import Checkout
from components.errors import ServiceAway, UserError
from components.files import read_json
from components.operations.doctor.activity import activity
from components.operations.services.state import DEPLOYED, read_addresses
from components.processes.guard import GRACE_SECONDS
from components.processes.marks import FLOW_RUN, kill_all, marked, send, wait_until_ended
from components.processes.secrets import read_secrets, state_folder
from components.storage.clones import clones_folder

POLL_SECONDS = 1.0
AWAY_SECONDS = 300.0  # for which the server may be silent while a run is followed
LIMIT = 200  # of runs and of lines of a log in one reply of the server
# States in which a run sends heartbeats.
OPEN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
FINAL = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]


@contextmanager
def server_client(checkout: Checkout) -> Iterator[SyncPrefectClient]:
    """Prefect's client for this checkout's server. It asks twice: a command should say at once that a server is away.

    Raises UserError where the checkout has no services or the server refuses a request, ServiceAway where the server does not answer.
    """
    addresses = read_addresses(checkout)
    if addresses is None:
        raise UserError(f"{checkout.root} has no services: `mmalign up --detach` starts them")
    secrets = read_secrets(checkout)
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}),
            SyncPrefectClient(f"{addresses.prefect}/api", auth_string=secrets.prefect_auth) as client,
        ):
            yield client
    except ObjectNotFound as error:
        raise UserError(f"Prefect's server knows nothing of the kind: {error}") from error
    except httpx.HTTPStatusError as error:
        if error.response.is_server_error:
            raise ServiceAway(
                f"Prefect's server has a fault ({error.response.status_code}): see `mmalign logs --service prefect`"
            ) from error
        raise UserError(f"Prefect's server refused the request: {_detail(error.response)}") from error
    except httpx.TransportError as error:
        raise ServiceAway("Prefect's server does not answer: run `mmalign up --detach`") from error


def _detail(response: httpx.Response) -> str:
    try:
        answer = response.json()
        detail = answer.get("detail") or answer.get("exception_detail") or response.text
    except (ValueError, AttributeError):
        detail = response.text
    return " ".join(str(detail).split())[:600]


def deployments(checkout: Checkout) -> dict[str, UUID]:
    """The deployments' ids by name. Raises UserError where nothing is deployed."""
    path = state_folder(checkout) / DEPLOYED
    if read_addresses(checkout) is None:
        raise UserError(f"{checkout.root} has no services: `mmalign up --detach` starts them, then `mmalign deploy`")
    if not path.is_file():
        raise UserError("nothing is deployed yet: run `mmalign deploy`")
    return {name: UUID(identifier) for name, identifier in read_json(path).items()}


def deployment_id(checkout: Checkout, name: str) -> UUID:
    """The id of a deployment. Raises UserError for an unknown name."""
    ids = deployments(checkout)
    if name not in ids:
        raise UserError(f"there is no deployment '{name}': choose one of {', '.join(ids)}")
    return ids[name]


def start_run(checkout: Checkout, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    """Start a run of a deployment. Raises UserError with the server's reply where it refuses the parameters."""
    identifier = deployment_id(checkout, deployment)
    with server_client(checkout) as client:
        defaults = client.read_deployment(identifier).parameters.get("run") or {}
        # A run that a person starts runs even without new data.
        values = {key: value for key, value in {**defaults, **parameters}.items() if key != "only_new_data" or key in parameters}
        return client.create_flow_run_from_deployment(identifier, parameters={"run": values})


def runs_of(client: SyncPrefectClient, ids: list[UUID], limit: int = LIMIT, **criteria: Any) -> list[FlowRun]:
    """Runs of deployments by `criteria` of Prefect's FlowRunFilter, those that were due last first."""
    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": ids}, **criteria})
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)


def find_run(checkout: Checkout, named: str | None, *, under_way: bool = False) -> FlowRun:
    """A run of this checkout's deployments by name, id or prefix of the id. Without `named`: the last run, or the run under way.

    Raises UserError, with the names of runs, where none or several match.
    """
    unwanted = [*(FINAL if under_way else ()), *([] if named else [StateType.SCHEDULED])]
    ids = list(deployments(checkout).values())
    with server_client(checkout) as client:
        runs = runs_of(client, ids, state={"type": {"not_any_": unwanted}})
    if named is not None:
        matches = [run for run in runs if run.name == named or str(run.id).startswith(named)]
        if len(matches) != 1:
            last = ", ".join(run.name for run in runs[:5]) or "none"
            raise UserError(f"{'no run is' if not matches else 'several runs are'} named '{named}'; the last ones: {last}")
        return matches[0]
    if not runs:
        raise UserError("no run of a deployment is under way" if under_way else "no deployment has run yet")
    if under_way and len(runs) > 1:
        raise UserError(f"{len(runs)} runs are under way: {', '.join(run.name for run in runs)}; name the one to end")
    return runs[0]


def read_run(checkout: Checkout, run_id: str) -> FlowRun | None:
    """A run by its id; None where the server does not answer or has forgotten it."""
    try:
        with server_client(checkout) as client:
            return client.read_flow_run(UUID(run_id))
    except UserError:
        return None


def read_log(client: SyncPrefectClient, run_id: UUID, offset: int) -> list[Log]:
    """Lines of a run's log from the line `offset` on, at most LIMIT."""
    wanted = LogFilter.model_validate({"flow_run_id": {"any_": [run_id]}})
    return client.read_logs(log_filter=wanted, sort=LogSort.TIMESTAMP_ASC, offset=offset, limit=LIMIT)


def follow(checkout: Checkout, run_id: UUID, log: Callable[[str], None]) -> FlowRun:
    """Show a run's log until the run ends, and return the run. Waits up to AWAY_SECONDS for a silent server."""
    offset = 0
    answered = time.monotonic()
    while True:
        try:
            with server_client(checkout) as client:
                run = client.read_flow_run(run_id)
                lines = read_log(client, run_id, offset)
            answered = time.monotonic()
            for line in lines:
                log(line.message)
            offset += len(lines)
            if run.state_type in FINAL:
                return run
        except ServiceAway:
            if time.monotonic() - answered > AWAY_SECONDS:
                raise
        time.sleep(POLL_SECONDS)


def cancel_run(client: SyncPrefectClient, run: FlowRun) -> None:
    """Cancel a run; the worker ends its processes."""
    client.set_flow_run_state(run.id, Cancelled() if run.state_type == StateType.SCHEDULED else Cancelling())


def end_processes(checkout: Checkout, run_id: str | None = None) -> list[str]:
    """End the runs of deployments that work in this checkout or in its clones and copies though no server knows them as open: all, or the run
    `run_id`. Returns their ids."""
    ended = []
    folders = [checkout, *(Checkout(folder) for folder in sorted(clones_folder(checkout).glob("*")))]
    for pid in [now.run.pid for now in map(activity, folders) if now.run is not None]:
        try:
            flow_run = psutil.Process(pid).environ().get(FLOW_RUN)
        except psutil.Error:
            continue
        if flow_run is None or run_id not in {None, flow_run}:
            continue
        send([pid], SIGTERM)
        processes = partial(marked, FLOW_RUN, flow_run)
        wait_until_ended(processes, GRACE_SECONDS + 15)
        kill_all(processes)
        ended.append(flow_run)
    return ended


def cancel_all(checkout: Checkout, seconds: float) -> None:
    """Cancel all runs under way, and wait up to `seconds` for their end. Does nothing where no server answers."""
    try:
        ids = list(deployments(checkout).values())
        with server_client(checkout) as client:
            for run in runs_of(client, ids, state={"type": {"any_": OPEN}}):
                cancel_run(client, run)
            until = time.monotonic() + seconds
            while time.monotonic() < until and runs_of(client, ids, state={"type": {"any_": OPEN}}):
                time.sleep(POLL_SECONDS)
    except UserError:
        return


def end_lost_runs(checkout: Checkout, silent_seconds: float) -> list[str]:
    """End the open runs of this checkout's deployments without a process here and without a heartbeat for so long; returns their names.

    The automation (flows/automations.py) marks a run that falls silent while the server works. A longer outage makes the server forget these
    runs, which would stay Running for ever and block the queue. Call it only after the server has answered for some heartbeats, so that those
    of live runs have arrived. The automation restarts a run that this marks Crashed.
    """
    lost = []
    message = "no heartbeat and no process: the machine or the server was down"
    with server_client(checkout) as client:
        for run in runs_of(client, list(deployments(checkout).values()), state={"type": {"any_": OPEN}}):
            if marked(FLOW_RUN, str(run.id)) or (datetime.now(UTC) - _last_sign(client, run)).total_seconds() < silent_seconds:
                continue
            end: State[Any] = Cancelled(message=message) if run.state_type == StateType.CANCELLING else Crashed(message=message)
            if client.set_flow_run_state(run.id, end).status == "ACCEPT":
                lost.append(run.name)
    return lost


def _last_sign(client: SyncPrefectClient, run: FlowRun) -> datetime:
    """The time of a run's newest event or state on the server."""
    assert run.state is not None, "an open run has a state"
    wanted = EventFilter.model_validate({"resource": {"id": [f"prefect.flow-run.{run.id}"]}, "order": EventOrder.DESC})
    return max([run.state.timestamp, *(event.occurred for event in client.read_events(filter=wanted, limit=1).events)])


def abandoned_runs(checkout: Checkout) -> list[FlowRun]:
    """Recovery runs of the last day that crashed before they began. Nothing restarts them."""
    since = datetime.now(UTC) - timedelta(days=1)
    with server_client(checkout) as client:
        ids = list(deployments(checkout).values())
        runs = runs_of(client, ids, state={"type": {"any_": [StateType.CRASHED]}}, expected_start_time={"after_": since})
    return [run for run in runs if (run.parameters.get("run") or {}).get("recovers") and not run.run_count]
