"""States of flow runs that their own process can't know: whether somebody cancelled a run, and the end of killed runs."""

from __future__ import annotations

from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from components.processes.marks import DEPLOYMENT_RUN_TAG


def cancel_requested(run_id: str) -> bool:
    """Whether somebody cancelled a run; False where the server can't answer."""
    try:
        with get_client(sync_client=True) as client:
            return any(state.type in {StateType.CANCELLING, StateType.CANCELLED} for state in client.read_flow_run_states(UUID(run_id)))
    except Exception as error:  # noqa: BLE001 -- the run is ending: no failure of the server may stop it
        get_run_logger().warning(f"the server can't say whether the run was cancelled: {error}")
        return False


def mark_killed_runs(run_id: str) -> None:
    """Mark inner flow runs whose process was killed as Crashed.

    A killed process leaves its flow run `Running`. That run has ended when the deployment's run that started it has ended, or is `run_id`,
    which calls this between two attempts.
    """
    open_runs = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    try:
        with get_client(sync_client=True) as client:
            for left in client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["align"])), flow_run_filter=FlowRunFilter(state=open_runs)
            ):
                outer = next((tag.removeprefix(DEPLOYMENT_RUN_TAG) for tag in left.tags if tag.startswith(DEPLOYMENT_RUN_TAG)), None)
                if outer == run_id or (outer and _has_ended(client, outer)):
                    client.set_flow_run_state(left.id, Crashed(message="its process was killed"), force=True)
    except Exception as error:  # noqa: BLE001 -- a page is not worth a run
        get_run_logger().warning(f"runs of killed processes stay marked as running: {error}")


def _has_ended(client: SyncPrefectClient, run_id: str) -> bool:
    try:
        state = client.read_flow_run(UUID(run_id)).state
    except ObjectNotFound:
        return True
    return state is not None and state.is_final()
