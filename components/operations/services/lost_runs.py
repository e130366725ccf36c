"""Runs whose process is gone while nobody watched: the machine was off, or Prefect's server was.

Prefect's automation (flows/automations.py) marks a run that falls silent while the server lives. What it waits for it forgets when the
server is down for longer than that, so that a run of before a power cut would stay Running for ever, and hold its place in the queue.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from components.operations.services.flow_runs import answer, deployments
from components.processes.marks import marked

PROCESS = "PREFECT__FLOW_RUN_ID"  # in the environment of the process that Prefect's worker starts for a run
OPEN = {"RUNNING": "CRASHED", "PENDING": "CRASHED", "CANCELLING": "CANCELLED"}  # states in which a run owes a sign of life, and its end


def end_lost_runs(root: Path, silent_seconds: float) -> list[str]:
    """Mark the open runs of this checkout's deployments that have no process here and gave no sign for so long; their names.

    Call it once the server has been there for some heartbeats: those of a run that lives must have come in. A run that is marked Crashed
    is started again by the automation. Raises UserError as `flow_runs.answer` does.
    """
    body = {"flow_runs": {"deployment_id": {"any_": list(deployments(root).values())}, "state": {"type": {"any_": sorted(OPEN)}}}}
    lost = []
    for run in answer(root, "flow_runs/filter", body):
        if marked(PROCESS, run["id"]) or (datetime.now(UTC) - _last_sign(root, run)).total_seconds() < silent_seconds:
            continue
        end = OPEN[run["state_type"]]
        state = {"type": end, "name": end.capitalize(), "message": "no heartbeat and no process: the machine or the server was down"}
        done = answer(root, f"flow_runs/{run['id']}/set_state", {"state": state})
        if done["status"] == "ACCEPT":
            lost.append(str(run["name"]))
    return lost


def _last_sign(root: Path, run: dict[str, Any]) -> datetime:
    """When the server last heard of a run: its newest event, or its state."""
    wanted = {"resource": {"id": [f"prefect.flow-run.{run['id']}"]}, "order": "DESC"}
    events = answer(root, "events/filter", {"filter": wanted, "limit": 1})["events"]
    times = [run["state"]["timestamp"], *(event["occurred"] for event in events)]
    return max(datetime.fromisoformat(time) for time in times)


def abandoned_runs(root: Path) -> list[dict[str, Any]]:
    """Runs of the last day that were started again after a crash and crashed before they began: nothing starts these again."""
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(root).values())},
            "state": {"type": {"any_": ["CRASHED"]}},
            "expected_start_time": {"after_": since},
        }
    }
    runs: list[dict[str, Any]] = answer(root, "flow_runs/filter", body)
    return [run for run in runs if (run["parameters"].get("run") or {}).get("recovers") and not run["run_count"]]
