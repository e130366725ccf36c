"""States of runs and stages: how they fail, and those on Prefect's server that a run's own process can't know.

These are whether somebody ended the run, and tasks that a killed flow left open.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, Failed

from components.printable import printable
from flows.flow_runs import FINAL

WATCH_SECONDS = 10.0
# Set on Prefect's page by a person. Crashed is what the server sets after an outage, in which the run went on.
ENDED_BY_HAND = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}
OPEN = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED]


def failed(sentence: str, data: object, name: str = "Failed") -> State[Any]:
    """A failed state with this sentence. A flow or task returns it instead of raising, so that Prefect logs no trace."""
    return Failed(name=name, message=printable(sentence), data=data)


def _without_empty_trace(record: logging.LogRecord) -> bool:
    """Prefect logs a task's failed state as if it had been raised: its line would end in `NoneType: None`."""
    if record.exc_info == (None, None, None):
        record.exc_info = None
    return True


logging.getLogger("prefect.task_runs").addFilter(_without_empty_trace)


def cancel_requested(run_id: str) -> bool:
    """Whether somebody cancelled a run; False where the server can't answer."""
    try:
        with get_client(sync_client=True) as client:
            return any(state.type in {StateType.CANCELLING, StateType.CANCELLED} for state in client.read_flow_run_states(UUID(run_id)))
    except Exception as error:  # noqa: BLE001 -- the run is ending: no failure of the server may stop it
        get_run_logger().warning(f"the server can't say whether the run was cancelled: {error}")
        return False


@contextmanager
def ending_with_record(run_id: str, cancel: threading.Event, log: Callable[[str], None]) -> Iterator[None]:
    """Set `cancel` within the block when somebody deletes the run on Prefect's page or sets it to a final state: nothing else tells its process."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(WATCH_SECONDS):
            try:
                with get_client(sync_client=True) as client:
                    why = _ended_by_hand(client, run_id)
            except Exception:  # noqa: BLE001, S112 -- a server that is away says nothing about the run, which goes on
                continue
            if why is not None:
                log(f"{why} on Prefect's server, so this run ends")
                cancel.set()
                return

    thread = threading.Thread(target=copy_context().run, args=(watch,), name="record", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()


def _ended_by_hand(client: SyncPrefectClient, run_id: str) -> str | None:
    try:
        run = client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return "somebody deleted the run"
    return f"somebody set the run to {run.state_name}" if run.state_type in ENDED_BY_HAND else None


def final_state(run_id: str) -> State[Any] | None:
    """The final state that somebody set the run to on Prefect's server; None where there is none, or the server can't answer."""
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(run_id))
    except Exception:  # noqa: BLE001 -- as above
        return None
    if run.state is None or run.state_type not in ENDED_BY_HAND:
        return None
    return State(type=run.state.type, name=run.state.name, message="set on Prefect's server; the run ended then")


def close_open_tasks(deployment: UUID) -> None:
    """Mark tasks of a deployment's ended runs as Crashed: a killed flow leaves them open, and nothing else ends them."""
    try:
        with get_client(sync_client=True) as client:
            left = client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": FINAL}}}),
                task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": OPEN}}}),
            )
            for task_run in left:
                client.set_task_run_state(task_run.id, Crashed(message="its flow was killed"), force=True)
    except Exception as error:  # noqa: BLE001 -- a page is not worth a run
        get_run_logger().warning(f"tasks of killed flows stay marked as open: {error}")
