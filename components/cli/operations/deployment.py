"""Commands for runs of the worker: `deploy`, `worker`, `cancel`, `resume`, and `run --deployment NAME`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout
from components.operations.services.state import read_addresses
from components.processes.faults import FAULT, INTERRUPTED, MISTAKE

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


def deploy(as_json: Annotated[bool, typer.Option("--json", help="print the deployments' ids as JSON")] = False) -> None:
    """Put the deployments of prefect.yaml on this checkout's Prefect server, with their automations. You can repeat it."""
    from components.config.settings import load_settings
    from components.operations.services.health import require_services

    checkout = enter_checkout()
    settings = load_settings()
    addresses = read_addresses(checkout)
    if addresses is None:
        raise UserError(f"{checkout.root} has no services to deploy to: run `mmalign up --detach` first")
    require_services(checkout)
    from flows.deployments import deploy as deploy_all

    ids = deploy_all(checkout, settings)
    if as_json:
        print(json.dumps(ids, indent=2))
        return
    when = {
        "nightly": f"at '{settings.deployments.cron}' ({settings.deployments.timezone})",
        "on-new-data": f"when data are new; polls at '{settings.deployments.poll_cron}'",
        "on-demand": "on request: mmalign run --deployment on-demand",
    }
    for name, deployment in ids.items():
        print(f"{name:<12} {when.get(name, ''):<50} {addresses.prefect}/deployments/deployment/{deployment}")


def worker() -> None:
    """Run a worker for this checkout's deployments in the foreground, beside the worker of `mmalign up`."""
    from components.operations.services.programs import main

    main("worker", enter_checkout())


def cancel(
    run: Annotated[str | None, typer.Argument(help="name or id of the run; without it, the one under way")] = None,
) -> None:
    """End a run of a deployment with all its processes. The outputs of its finished stages stay."""
    from flows.flow_runs import FINAL, cancel_run, end_processes, find_run, follow, server_client

    checkout = enter_checkout()
    try:
        flow_run = find_run(checkout, run, under_way=run is None)
    except UserError:
        if run is not None or not (ended_here := end_processes(checkout)):
            raise
        print(f"ended the processes of {', '.join(ended_here)}, which Prefect's server has no open run of")
        return
    if flow_run.state_type in FINAL:
        if not end_processes(checkout, str(flow_run.id)):
            raise UserError(f"run {flow_run.name} has ended already ({flow_run.state_name}): there is nothing to cancel")
        print(f"run {flow_run.name}: {str(flow_run.state_name).lower()} on the server; its processes have ended now")
        return
    with server_client(checkout) as client:
        cancel_run(client, flow_run)
    ended = follow(checkout, flow_run.id, lambda _: None)
    print(f"run {ended.name}: {str(ended.state_name).lower()}")


def resume(
    run: Annotated[
        str | None, typer.Argument(help="name or id of a run that failed, crashed or was cancelled; without it, the last")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="follow the run to its end")] = False,
) -> None:
    """Restart a run with its parameters. It skips finished stages, and training continues from its last checkpoint."""
    from flows.flow_runs import deployments, find_run

    checkout = enter_checkout()
    flow_run = find_run(checkout, run)
    if flow_run.state_type not in {"FAILED", "CRASHED", "CANCELLED"}:
        raise UserError(f"run {flow_run.name} is {str(flow_run.state_name).lower()}: there is nothing to resume")
    name = next(name for name, deployment in deployments(checkout).items() if deployment == flow_run.deployment_id)
    parameters = dict(flow_run.parameters.get("run") or {})
    parameters["goes_on_from"] = parameters.pop("recovers", None) or parameters.get("goes_on_from") or str(flow_run.id)
    raise typer.Exit(run_deployment(name, parameters, wait=wait))


def run_deployment(name: str, parameters: dict[str, Any], *, wait: bool) -> int:
    """Start a run of a deployment, and with `wait` follow it; returns the run's exit code."""
    from components.config.overrides import changed_settings
    from flows.flow_runs import follow, start_run

    checkout = enter_checkout()
    if parameters.get("overrides"):
        changed_settings(checkout.params, parameters["overrides"])  # reports a mistake here, and writes nothing
    started = start_run(checkout, name, parameters)
    addresses = read_addresses(checkout)
    assert addresses is not None, "start_run has reached the server"
    print(f"run {started.name} of {name}: {addresses.prefect}/runs/flow-run/{started.id}", flush=True)
    if not wait:
        return 0
    ended = follow(checkout, started.id, lambda line: print(line, flush=True))
    return _print_end(checkout, ended)


def _print_end(checkout: Checkout, ended: FlowRun) -> int:
    from components.report.table import print_summary
    from components.storage.copies import workspace_of

    message = (ended.state.message if ended.state is not None else None) or ""
    if ended.state_type == "COMPLETED":
        parameters = ended.parameters.get("run") or {}
        if parameters.get("source", "checkout") == "checkout" and not parameters.get("only_new_data"):
            print_summary(workspace_of(checkout, parameters.get("overrides") or []))
        print(f"run {ended.name}: {message or 'completed'}")
        return 0
    print(f"mmalign: run {ended.name} is {str(ended.state_name).lower()}{f': {message}' if message else ''}", file=sys.stderr)
    if ended.state_type == "CANCELLED":
        return INTERRUPTED
    return MISTAKE if ended.state_name == "Mistake" else FAULT
