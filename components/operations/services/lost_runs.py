"""Ends runs that lost their process while Prefect's server was down.

Prefect's automation (flows/automations.py) marks a run that falls silent while the server works. A longer outage makes the server forget
these runs. A run from before a power cut would then stay Running for ever and block the queue.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from components.checkout import Checkout
from components.operations.services.flow_runs import deployments
from components.operations.services.prefect_rest import ask_checked
from components.processes.marks import FLOW_RUN, marked

OPEN = {
    "RUNNING": "CRASHED",
    "PENDING": "CRASHED",
    "CANCELLING": "CANCELLED",
}  # states in which a run sends heartbeats, and the final state of a lost one


def end_lost_runs(checkout: Checkout, silent_seconds: float) -> list[str]:
    """End the open runs of this checkout's deployments without a process here and without a heartbeat for so long; returns their names.

    Call it only after the server has answered for some heartbeats, so that those of live runs have arrived. The automation restarts a run
    that this marks Crashed. Raises as `ask_checked` does.
    """
    body = {"flow_runs": {"deployment_id": {"any_": list(deployments(checkout).values())}, "state": {"type": {"any_": sorted(OPEN)}}}}
    lost = []
    for run in ask_checked(checkout, "flow_runs/filter", body):
        if marked(FLOW_RUN, run["id"]) or (datetime.now(UTC) - _last_sign(checkout, run)).total_seconds() < silent_seconds:
            continue
        end = OPEN[run["state_type"]]
        state = {"type": end, "name": end.capitalize(), "message": "no heartbeat and no process: the machine or the server was down"}
        reply = ask_checked(checkout, f"flow_runs/{run['id']}/set_state", {"state": state})
        if reply["status"] == "ACCEPT":
            lost.append(str(run["name"]))
    return lost


def _last_sign(checkout: Checkout, run: dict[str, Any]) -> datetime:
    """The time of a run's newest event or state on the server."""
    wanted = {"resource": {"id": [f"prefect.flow-run.{run['id']}"]}, "order": "DESC"}
    events = ask_checked(checkout, "events/filter", {"filter": wanted, "limit": 1})["events"]
    times = [run["state"]["timestamp"], *(event["occurred"] for event in events)]
    return max(datetime.fromisoformat(time) for time in times)


def abandoned_runs(checkout: Checkout) -> list[dict[str, Any]]:
    """Recovery runs of the last day that crashed before they began. Nothing restarts them."""
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(checkout).values())},
            "state": {"type": {"any_": ["CRASHED"]}},
            "expected_start_time": {"after_": since},
        }
    }
    runs: list[dict[str, Any]] = ask_checked(checkout, "flow_runs/filter", body)
    return [run for run in runs if (run["parameters"].get("run") or {}).get("recovers") and not run["run_count"]]
