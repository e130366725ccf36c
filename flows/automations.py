"""What Prefect's server does by itself when a run's process is gone: it marks the run and starts it again, once.

- A run that sends no heartbeat, and no final state, within `deployments.crashed_after_seconds` is marked Crashed; one that somebody was
  cancelling, Cancelled. The server refuses both for a run that has a final state, so a heartbeat that arrives late can't undo an end.
- A crashed run of a deployment is started again as a new run with `recovers`: the id by which the flow finds the parameters.
- A run that was itself started again and crashes before it began is left alone: what can't begin would be started for ever. One that
  began is handed to the flow, which says that it gives up.

Found by name and brought up to date, so that making them twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from components.config.settings import Settings
from flows.parameters import MISTAKE

LOST, STUCK, AGAIN = "mmalign: mark lost runs", "mmalign: end stuck cancellations", "mmalign: start again"
RUNS: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}
HEARTBEAT = "prefect.flow-run.heartbeat"
BEGINNINGS = {HEARTBEAT, "prefect.flow-run.Pending", "prefect.flow-run.Running"}
# Final, or given back to the schedule: nothing is owed after these.
ENDS = {
    f"prefect.flow-run.{name}"
    for name in (
        MISTAKE,
        "Completed",
        "Failed",
        "Crashed",
        "Cancelled",
        "TimedOut",
        "AwaitingRetry",
        "AwaitingConcurrencySlot",
        "Late",
        "Scheduled",
    )
}
# JSON in which there is nothing is refused, and no run is started then.
CRASHED_RUN = """{% if not flow_run.parameters.run.recovers or flow_run.run_count %}"{{ flow_run.id }}"{% endif %}"""


def make_automations(client: SyncPrefectClient, deployments: Mapping[str, UUID], settings: Settings) -> dict[str, UUID]:
    """Make the automations for `deployments` (name to id), or bring them up to date; their ids by name."""
    within = timedelta(seconds=settings.deployments.crashed_after_seconds)
    wanted = [lost(deployments.values(), within), stuck(deployments.values(), within)]
    wanted += [again(name, deployment) for name, deployment in sorted(deployments.items())]
    return {automation.name: _settle(client, automation) for automation in wanted}


def lost(deployments: Iterable[UUID], within: timedelta) -> AutomationCore:
    """Marks a run Crashed whose heartbeat has stopped."""
    return AutomationCore(
        name=LOST,
        description=f"No heartbeat and no end within {within.total_seconds():.0f} seconds (deployments.crashed_after_seconds)",
        trigger=_missing(BEGINNINGS, {HEARTBEAT, "prefect.flow-run.Running", *ENDS}, deployments, within),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process is gone", force=False)],
    )


def stuck(deployments: Iterable[UUID], within: timedelta) -> AutomationCore:
    """Marks a run Cancelled that nobody is left to cancel: it would hold its place in the queue for ever."""
    return AutomationCore(
        name=STUCK,
        description=f"Cancelling for {within.total_seconds():.0f} seconds (deployments.crashed_after_seconds)",
        trigger=_missing({"prefect.flow-run.Cancelling"}, ENDS, deployments, within),
        actions=[ChangeFlowRunState(state=StateType.CANCELLED, name="Cancelled", message="cancelled; its process was gone", force=False)],
    )


def again(name: str, deployment: UUID) -> AutomationCore:
    """Starts a crashed run of one deployment again."""
    run_id = {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": CRASHED_RUN}}
    return AutomationCore(
        name=f"{AGAIN} ({name})",
        description=f"A crashed run of {name} is started again, once",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=ResourceSpecification(RUNS),
            match_related=_of([deployment]),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[RunDeployment(source="selected", deployment_id=deployment, parameters={"run": {"recovers": run_id}}, job_variables=None)],
    )


def _missing(after: set[str], expect: set[str], deployments: Iterable[UUID], within: timedelta) -> EventTrigger:
    return EventTrigger(
        after=after,
        expect=expect,
        match=ResourceSpecification(RUNS),
        match_related=_of(deployments),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _of(deployments: Iterable[UUID]) -> ResourceSpecification:
    ids: str | list[str] = sorted(f"prefect.deployment.{deployment}" for deployment in deployments)
    return ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": ids})


def _settle(client: SyncPrefectClient, wanted: AutomationCore) -> UUID:
    there = client.read_automations_by_name(wanted.name)
    if not there:
        return client.create_automation(wanted)
    first, *doubles = there
    for double in doubles:
        client.delete_automation(double.id)
    if _described(first) != _described(wanted):
        client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))
    return first.id


def _described(automation: Automation | AutomationCore) -> dict[str, Any]:
    """What of an automation is ours to say. Whether it is switched on is a person's."""
    described: dict[str, Any] = _sorted(automation.model_dump(mode="json", include={"description", "trigger", "actions"}))
    return described


def _sorted(value: Any) -> Any:
    """Lists in one order: sets come back in another."""
    if isinstance(value, dict):
        return {key: _sorted(inner) for key, inner in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_sorted(inner) for inner in value), key=repr)
    return value
