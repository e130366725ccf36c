"""Starts, finds, follows and cancels runs of deployments, over the REST API of this checkout's Prefect server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from components.checkout import Checkout
from components.errors import ServiceAway, UserError
from components.files import read_json
from components.operations.services.prefect_rest import ask, ask_checked
from components.operations.services.state import DEPLOYED, read_addresses
from components.processes.secrets import state_folder

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
POLL_SECONDS = 1.0
AWAY_SECONDS = 300.0  # for which the server may be silent while a run is followed


def deployments(checkout: Checkout) -> dict[str, str]:
    """The deployments' ids by name. Raises UserError where nothing is deployed."""
    path = state_folder(checkout) / DEPLOYED
    if read_addresses(checkout) is None:
        raise UserError(f"{checkout.root} has no services: `mmalign up --detach` starts them, then `mmalign deploy`")
    if not path.is_file():
        raise UserError("nothing is deployed yet: run `mmalign deploy`")
    ids: dict[str, str] = read_json(path)
    return ids


def deployment_id(checkout: Checkout, name: str) -> str:
    """The id of a deployment. Raises UserError for an unknown name."""
    ids = deployments(checkout)
    if name not in ids:
        raise UserError(f"there is no deployment '{name}': choose one of {', '.join(ids)}")
    return ids[name]


def start_run(checkout: Checkout, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Start a run of a deployment and return its flow run. Raises UserError with the server's reply where it refuses the parameters."""
    identifier = deployment_id(checkout, deployment)
    defaults = ask_checked(checkout, f"deployments/{identifier}")["parameters"].get("run") or {}
    # A run that a person starts runs even without new data.
    values = {key: value for key, value in {**defaults, **parameters}.items() if key != "only_new_data" or "only_new_data" in parameters}
    started: dict[str, Any] = ask_checked(
        checkout, f"deployments/{identifier}/create_flow_run", {"parameters": {"run": values}, "state": {"type": "SCHEDULED"}}
    )
    return started


def find_run(checkout: Checkout, named: str | None, *, under_way: bool = False) -> dict[str, Any]:
    """A run of this checkout's deployments by name, id or prefix of the id. Without `named`: the last run, or the run under way.

    Raises UserError, with the names of runs, where none or several match.
    """
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(checkout).values())},
            "state": {"type": {"not_any_": [*sorted(FINAL if under_way else ()), *([] if named else ["SCHEDULED"])]}},
        },
        "sort": "START_TIME_DESC",
        "limit": 200,
    }
    runs: list[dict[str, Any]] = ask_checked(checkout, "flow_runs/filter", body)
    if named is not None:
        matches = [run for run in runs if run["name"] == named or run["id"].startswith(named)]
        if len(matches) != 1:
            last = ", ".join(run["name"] for run in runs[:5]) or "none"
            raise UserError(f"{'no run is' if not matches else 'several runs are'} named '{named}'; the last ones: {last}")
        return matches[0]
    if not runs:
        raise UserError("no run of a deployment is under way" if under_way else "no deployment has run yet")
    if under_way and len(runs) > 1:
        raise UserError(f"{len(runs)} runs are under way: {', '.join(run['name'] for run in runs)}; name the one to end")
    return runs[0]


def follow(checkout: Checkout, run_id: str, log: Callable[[str], None]) -> dict[str, Any]:
    """Show a run's log until the run ends, and return the run. Waits up to AWAY_SECONDS for a silent server."""
    offset = 0
    away_since: float | None = None
    while True:
        try:
            run: dict[str, Any] = ask(checkout, f"flow_runs/{run_id}")
            offset += _show_logs(checkout, run_id, offset, log)
            away_since = None
        except OSError:  # urllib's errors are OSErrors
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY_SECONDS:
                raise ServiceAway(f"Prefect's server has not answered for {AWAY_SECONDS:.0f} s: run `mmalign up --detach`") from None
            time.sleep(POLL_SECONDS)
            continue
        if run["state_type"] in FINAL:
            return run
        time.sleep(POLL_SECONDS)


def cancel_run(checkout: Checkout, run: dict[str, Any]) -> None:
    """Cancel a run; the worker ends its processes."""
    now = "CANCELLED" if run["state_type"] == "SCHEDULED" else "CANCELLING"
    ask_checked(checkout, f"flow_runs/{run['id']}/set_state", {"state": {"type": now, "name": now.capitalize()}})


def cancel_all(checkout: Checkout, seconds: float) -> list[str]:
    """Cancel all runs under way, wait up to `seconds` for their end, and return their names. Does nothing where no server answers."""
    if not (state_folder(checkout) / DEPLOYED).is_file():
        return []
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(checkout).values())},
            "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
        }
    }
    try:
        runs: list[dict[str, Any]] = ask(checkout, "flow_runs/filter", body)
        for run in runs:
            cancel_run(checkout, run)
        until = time.monotonic() + seconds
        while time.monotonic() < until and ask(checkout, "flow_runs/filter", body):
            time.sleep(POLL_SECONDS)
    except (OSError, UserError):
        return []
    return [run["name"] for run in runs]


def _show_logs(checkout: Checkout, run_id: str, offset: int, log: Callable[[str], None]) -> int:
    body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "offset": offset, "limit": 200}
    lines = ask(checkout, "logs/filter", body)
    for line in lines:
        log(line["message"])
    return len(lines)
