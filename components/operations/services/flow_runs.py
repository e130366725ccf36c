"""Runs of deployments, as Prefect's server of this checkout knows them, over its REST API."""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.errors import ServiceAway, UserError
from components.files import read_json
from components.operations.services.prefect_rest import ask
from components.operations.services.state import DEPLOYED, read_addresses
from components.processes.secrets import state_folder

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
POLL_SECONDS = 1.0
AWAY_SECONDS = 300.0  # that the server may be away while a run is followed


def deployments(root: Path) -> dict[str, str]:
    """The deployments' ids by name. UserError where there are none."""
    path = state_folder(root) / DEPLOYED
    if read_addresses(root) is None:
        raise UserError(f"{root} has no services: `mmalign up --detach` starts them, then `mmalign deploy`")
    if not path.is_file():
        raise UserError("nothing is deployed yet: run `mmalign deploy`")
    found: dict[str, str] = read_json(path)
    return found


def deployment_id(root: Path, name: str) -> str:
    """The id of a deployment. UserError where there is none of that name."""
    known = deployments(root)
    if name not in known:
        raise UserError(f"there is no deployment '{name}'; there are {', '.join(known)}")
    return known[name]


def start_run(root: Path, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Start a run of a deployment; its flow run. UserError where the server refuses the parameters, with what it says."""
    found = deployment_id(root, deployment)
    defaults = answer(root, f"deployments/{found}")["parameters"].get("run") or {}
    # A run that somebody asks for is one, whether or not there are new data.
    given = {key: value for key, value in {**defaults, **parameters}.items() if key != "only_new_data" or "only_new_data" in parameters}
    started: dict[str, Any] = answer(
        root, f"deployments/{found}/create_flow_run", {"parameters": {"run": given}, "state": {"type": "SCHEDULED"}}
    )
    return started


def find_run(root: Path, named: str | None, *, under_way: bool = False) -> dict[str, Any]:
    """A run of this checkout's deployments by name, or by id or its beginning. Without one: the last that began, or the one under way.

    UserError where there is none, or where several fit, with the names that there are.
    """
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(root).values())},
            "state": {"type": {"not_any_": [*sorted(FINAL if under_way else ()), *([] if named else ["SCHEDULED"])]}},
        },
        "sort": "START_TIME_DESC",
        "limit": 200,
    }
    runs: list[dict[str, Any]] = answer(root, "flow_runs/filter", body)
    if named is not None:
        found = [run for run in runs if run["name"] == named or run["id"].startswith(named)]
        if len(found) != 1:
            last = ", ".join(run["name"] for run in runs[:5]) or "none"
            raise UserError(f"{'no run is' if not found else 'several runs are'} named '{named}'; the last ones: {last}")
        return found[0]
    if not runs:
        raise UserError("no run of a deployment is under way" if under_way else "no deployment has run yet")
    if under_way and len(runs) > 1:
        raise UserError(f"{len(runs)} runs are under way: {', '.join(run['name'] for run in runs)}; name the one to end")
    return runs[0]


def follow(root: Path, run_id: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Show a run's log until it has ended; the ended run. A server that is away for minutes is waited for."""
    offset = 0
    away_since: float | None = None
    while True:
        try:
            run: dict[str, Any] = ask(root, f"flow_runs/{run_id}")
            offset += _show_logs(root, run_id, offset, say)
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


def cancel_run(root: Path, run: dict[str, Any]) -> None:
    """Ask for a run's end; the worker ends its processes."""
    now = "CANCELLED" if run["state_type"] == "SCHEDULED" else "CANCELLING"
    answer(root, f"flow_runs/{run['id']}/set_state", {"state": {"type": now, "name": now.capitalize()}})


def cancel_all(root: Path, seconds: float) -> list[str]:
    """Ask for the end of all runs under way, and wait for it `seconds` at most; their names. Nothing where there is no server to ask."""
    if not (state_folder(root) / DEPLOYED).is_file():
        return []
    body = {
        "flow_runs": {
            "deployment_id": {"any_": list(deployments(root).values())},
            "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
        }
    }
    try:
        runs: list[dict[str, Any]] = ask(root, "flow_runs/filter", body)
        for run in runs:
            cancel_run(root, run)
        until = time.monotonic() + seconds
        while time.monotonic() < until and ask(root, "flow_runs/filter", body):
            time.sleep(POLL_SECONDS)
    except (OSError, UserError):
        return []
    return [run["name"] for run in runs]


def answer(root: Path, path: str, body: dict[str, Any] | None = None) -> Any:
    """`ask` with mistakes in words. UserError where the server refuses, ServiceAway where it does not answer."""
    try:
        return ask(root, path, body)
    except urllib.error.HTTPError as error:
        raise UserError(_refusal(error.read().decode(errors="replace"))) from error
    except OSError as error:
        raise ServiceAway("Prefect's server does not answer: run `mmalign up --detach`") from error


def _refusal(text: str) -> str:
    try:
        detail = json.loads(text).get("detail") or json.loads(text).get("exception_detail") or text
    except ValueError:
        detail = text
    return f"Prefect's server refuses it: {' '.join(str(detail).split())[:600]}"


def _show_logs(root: Path, run_id: str, offset: int, say: Callable[[str], None]) -> int:
    body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "offset": offset, "limit": 200}
    lines = ask(root, "logs/filter", body)
    for line in lines:
        say(line["message"])
    return len(lines)
