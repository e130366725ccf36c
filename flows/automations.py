"""Automations by which Prefect's server marks a run whose process has ended, and restarts it once.

- The server marks a run Crashed that sends neither a heartbeat nor a final state within `deployments.crashed_after_seconds`, and
  Cancelled if somebody was cancelling it. It refuses both for a run that has a final state, so a late heartbeat can't undo an end.
- It restarts a crashed run of a deployment as a new run. The parameter `recovers` names the crashed run, whose parameters the flow takes.
- It does not restart a restarted run that crashes before it begins: it could do so for ever. The flow ends a restarted run that crashed
  after it began, with a sentence.

`make_automations` finds them by name and updates them, so a second call changes nothing.
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

LOST, STUCK, RESTART = "mmalign: mark lost runs", "mmalign: end stuck cancellations", "mmalign: start again"
RUNS: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}
HEARTBEAT = "prefect.flow-run.heartbeat"
BEGINNINGS = {HEARTBEAT, "prefect.flow-run.Pending", "prefect.flow-run.Running"}
# Final, or back on the schedule: no heartbeat follows these.
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
# The server refuses empty JSON, and then starts no run.
CRASHED_RUN = """{% if not flow_run.parameters.run.recovers or flow_run.run_count %}"{{ flow_run.id }}"{% endif %}"""


def make_automations(client: SyncPrefectClient, deployments: Mapping[str, UUID], settings: Settings) -> dict[str, UUID]:
    """Create or update the automations for `deployments` (name to id); returns their ids by name."""
    within = timedelta(seconds=settings.deployments.crashed_after_seconds)
    wanted = [lost(deployments.values(), within), stuck(deployments.values(), within)]
    wanted += [restart(name, deployment) for name, deployment in sorted(deployments.items())]
    return {automation.name: _upsert(client, automation) for automation in wanted}


def lost(deployments: Iterable[UUID], within: timedelta) -> AutomationCore:
    """Marks a run Crashed whose heartbeat has stopped."""
    return AutomationCore(
        name=LOST,
        description=f"No heartbeat and no end within {within.total_seconds():.0f} seconds (deployments.crashed_after_seconds)",
        trigger=_missing(BEGINNINGS, {HEARTBEAT, "prefect.flow-run.Running", *ENDS}, deployments, within),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process has ended", force=False)],
    )


def stuck(deployments: Iterable[UUID], within: timedelta) -> AutomationCore:
    """Marks a run Cancelled whose process can't cancel it any more: it would occupy the queue for ever."""
    return AutomationCore(
        name=STUCK,
        description=f"Cancelling for {within.total_seconds():.0f} seconds (deployments.crashed_after_seconds)",
        trigger=_missing({"prefect.flow-run.Cancelling"}, ENDS, deployments, within),
        actions=[ChangeFlowRunState(state=StateType.CANCELLED, name="Cancelled", message="cancelled; its process had ended", force=False)],
    )


def restart(name: str, deployment: UUID) -> AutomationCore:
    """Restarts a crashed run of one deployment."""
    run_id = {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": CRASHED_RUN}}
    return AutomationCore(
        name=f"{RESTART} ({name})",
        description=f"Restarts a crashed run of {name}, once",
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


def _upsert(client: SyncPrefectClient, wanted: AutomationCore) -> UUID:
    existing = client.read_automations_by_name(wanted.name)
    if not existing:
        return client.create_automation(wanted)
    first, *doubles = existing
    for double in doubles:
        client.delete_automation(double.id)
    if _described(first) != _described(wanted):
        client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))
    return first.id


def _described(automation: Automation | AutomationCore) -> dict[str, Any]:
    """The parts of an automation that the code decides. A person decides whether it is enabled."""
    described: dict[str, Any] = _sorted(automation.model_dump(mode="json", include={"description", "trigger", "actions"}))
    return described


def _sorted(value: Any) -> Any:
    """Lists in one order: the server returns sets in another."""
    if isinstance(value, dict):
        return {key: _sorted(inner) for key, inner in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_sorted(inner) for inner in value), key=repr)
    return value
