"""States of flow runs that only an outsider knows: whether somebody asked for a run's end, and the end of runs whose process was killed."""

from __future__ import annotations

from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from components.processes.marks import DEPLOYMENT_RUN_TAG


def asked_to_cancel(run_id: str) -> bool:
    """Whether somebody asked for a run's end. Where that can't be known, nobody did."""
    try:
        with get_client(sync_client=True) as client:
            return any(state.type in {StateType.CANCELLING, StateType.CANCELLED} for state in client.read_flow_run_states(UUID(run_id)))
    except Exception as error:  # noqa: BLE001 -- the run is ending: no failure of the server may stand in its way
        get_run_logger().warning(f"whether the run was cancelled is not known: {error}")
        return False


def mend_inner_runs(run_id: str) -> None:
    """A killed process leaves its flow run `Running` behind. Its end is known when the run of the deployment that started it has ended, or
    is this one, between two tries."""
    open_runs = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    try:
        with get_client(sync_client=True) as client:
            for left in client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["align"])), flow_run_filter=FlowRunFilter(state=open_runs)
            ):
                outer = next((tag.removeprefix(DEPLOYMENT_RUN_TAG) for tag in left.tags if tag.startswith(DEPLOYMENT_RUN_TAG)), None)
                if outer == run_id or (outer and _has_ended(client, outer)):
                    client.set_flow_run_state(left.id, Crashed(message="its process was killed"), force=True)
    except Exception as error:  # noqa: BLE001 -- how a page shows it is not worth a run
        get_run_logger().warning(f"runs of killed processes are not marked: {error}")


def _has_ended(client: SyncPrefectClient, run_id: str) -> bool:
    try:
        state = client.read_flow_run(UUID(run_id)).state
    except ObjectNotFound:
        return True
    return state is not None and state.is_final()
