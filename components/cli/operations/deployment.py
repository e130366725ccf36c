"""Commands for runs that the worker does: `deploy`, `worker`, `cancel`, `resume`, and `run --deployment NAME`."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def deploy(as_json: Annotated[bool, typer.Option("--json", help="print the deployments' ids as JSON")] = False) -> None:
    """Put the deployments of prefect.yaml on this checkout's Prefect server, with limits and automations. Again does no harm."""
    import json
    import subprocess
    import sys

    from components.config.settings import load_settings
    from components.operations.environment import enter_checkout
    from components.operations.services.health import require_services
    from components.operations.services.state import read_addresses

    root = enter_checkout()
    settings = load_settings().deployments
    addresses = read_addresses(root)
    if addresses is None:
        from components.errors import UserError

        raise UserError(f"{root} has no services to deploy to: run `mmalign up --detach` first")
    require_services(root)
    done = subprocess.run([sys.executable, "-m", "flows.deployments"], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    ids = json.loads(done.stdout.splitlines()[-1])
    if as_json:
        print(json.dumps(ids, indent=2))
        return
    when = {
        "nightly": f"at '{settings.cron}' ({settings.timezone})",
        "on-new-data": f"when data are new; looks every {settings.poll_minutes:g} minutes",
        "on-demand": "when asked: mmalign run --deployment on-demand",
    }
    for name, found in ids.items():
        print(f"{name:<12} {when.get(name, ''):<50} {addresses.prefect}/deployments/deployment/{found}")


def worker() -> None:
    """Run a worker for this checkout's deployments in the foreground, beside the one that `mmalign up` keeps."""
    from components.operations.environment import enter_checkout
    from components.operations.services.programs import main

    main("worker", enter_checkout())


def cancel(
    run: Annotated[str | None, typer.Argument(help="name or id of the run; without it, the one under way")] = None,
) -> None:
    """End a run of a deployment with all its processes. What its finished stages made is kept."""
    from components.errors import UserError
    from components.operations.environment import enter_checkout
    from components.operations.services.flow_runs import FINAL, cancel_run, find_run, follow

    root = enter_checkout()
    found = find_run(root, run, under_way=run is None)
    if found["state_type"] in FINAL:
        raise UserError(f"run {found['name']} has ended already ({found['state_name']})")
    cancel_run(root, found)
    ended = follow(root, found["id"], lambda _: None)
    print(f"run {ended['name']}: {ended['state_name'].lower()}")


def resume(
    run: Annotated[
        str | None, typer.Argument(help="name or id of a run that failed, crashed or was cancelled; without it, the last")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="follow the run to its end")] = False,
) -> None:
    """Start such a run again with its parameters: finished stages are skipped, training goes on from its last checkpoint."""
    from components.errors import UserError
    from components.operations.environment import enter_checkout
    from components.operations.services.flow_runs import deployments, find_run

    root = enter_checkout()
    found = find_run(root, run)
    if found["state_type"] not in {"FAILED", "CRASHED", "CANCELLED"}:
        raise UserError(f"run {found['name']} is {found['state_name'].lower()}: there is nothing to resume")
    name = next(name for name, known in deployments(root).items() if known == found["deployment_id"])
    given = dict(found["parameters"].get("run") or {})
    given["goes_on_from"] = given.pop("recovers", None) or given.get("goes_on_from") or found["id"]
    raise typer.Exit(run_deployment(name, given, wait=wait))


def run_deployment(name: str, parameters: dict[str, Any], *, wait: bool) -> int:
    """Start a run of a deployment, and with `wait` follow it; the exit code is that of the run."""
    from components.cli.run.overrides import changed_settings
    from components.operations.environment import enter_checkout
    from components.operations.services.flow_runs import follow, start_run
    from components.operations.services.state import read_addresses

    root = enter_checkout()
    if parameters.get("overrides"):
        changed_settings(root / "params.yaml", parameters["overrides"])  # a mistake is said here, and nothing is written
    started = start_run(root, name, parameters)
    addresses = read_addresses(root)
    assert addresses is not None, "start_run has asked the server"
    print(f"run {started['name']} of {name}: {addresses.prefect}/runs/flow-run/{started['id']}", flush=True)
    if not wait:
        return 0
    ended = follow(root, started["id"], lambda line: print(line, flush=True))
    return _tell_end(root, ended)


def _tell_end(root: Any, ended: dict[str, Any]) -> int:
    import sys

    from components.processes.faults import FAULT, INTERRUPTED, MISTAKE
    from components.report.table import print_summary

    message = (ended.get("state") or {}).get("message") or ""
    if ended["state_type"] == "COMPLETED":
        given = ended["parameters"].get("run") or {}
        if given.get("source", "checkout") == "checkout" and not given.get("only_new_data"):
            print_summary(root)
        print(f"run {ended['name']}: {message or 'completed'}")
        return 0
    print(f"mmalign: run {ended['name']} is {ended['state_name'].lower()}{f': {message}' if message else ''}", file=sys.stderr)
    if ended["state_type"] == "CANCELLED":
        return INTERRUPTED
    return MISTAKE if ended["state_name"] == "Mistake" else FAULT
