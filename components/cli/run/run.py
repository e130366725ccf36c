"""`mmalign run`: from changed data to a new model. The flow does the work, in a process of its own; this adds the short cut.

1. take the checkout's turn (one run at a time, none over what an earlier one left behind);
2. `--set` into params.yaml, all of it checked before any of it is written;
3. ask DVC, in this process, what changed, and the registry, what waits for a verdict: nothing, and that is recorded with no server started;
4. else start the flow, pass signals on to it, and see to it that nothing of it is left afterwards;
5. print what came out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STAGE", help="run only this stage, if it is stale; repeat for more")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="write a setting into params.yaml first; repeat for more")
    ] = None,
    accept_data: Annotated[bool, typer.Option("--accept-data", help="make removed files of data/ part of the new data version")] = False,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="judge the models and promote what passes")] = True,
    deployment: Annotated[
        str | None, typer.Option("--deployment", metavar="NAME", help="let the worker do it: start a run of this deployment")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="with --deployment: follow the run to its end")] = False,
    source: Annotated[str | None, typer.Option("--source", metavar="checkout|git", help="with --deployment: what to run on")] = None,
    ref: Annotated[str | None, typer.Option("--ref", help="with --source git: the branch, tag or commit")] = None,
) -> None:
    """Run all that is stale: commit changed data, train, evaluate, record."""
    if deployment is not None:
        from components.cli.operations.deployment import run_deployment

        given = {
            "overrides": assignments or None,
            "stages": only or None,
            "accept_data": accept_data or None,
            "promote": None if promote else False,
            "source": source,
            "ref": ref,
        }
        raise typer.Exit(run_deployment(deployment, {key: value for key, value in given.items() if value is not None}, wait=wait))
    import time

    started = time.time()
    from components.cli.run.overrides import changed_settings
    from components.config.settings import load_settings
    from components.errors import UserError
    from components.files import write_atomic
    from components.operations.environment import enter_checkout
    from components.operations.services.health import require_services
    from components.processes.guard import run_lock
    from components.registry.policy import POLICY_FILE, load_policy

    for flag, value in (("--wait", wait), ("--source", source), ("--ref", ref)):
        if value:
            raise UserError(f"{flag} belongs to a run of a deployment: add --deployment NAME")
    root = enter_checkout()
    require_services(root)
    stages = _known_stages(only or [])
    settings = Path("params.yaml")
    with run_lock(root) as turn:
        text = changed_settings(settings, assignments) if assignments else None
        load_settings(settings)
        load_policy(root / POLICY_FILE)
        if text is not None:
            write_atomic(settings, text)
        if promote and _nothing_stale(root, accept_data=accept_data, started=started):
            code = 0
        else:
            from components.cli.run.flow_process import run_flow

            code = run_flow(root, {"only": stages, "accept_data": accept_data, "promote": promote, "started": started}, turn)
    raise typer.Exit(code)


def _known_stages(names: list[str]) -> list[str]:
    from components.errors import UserError
    from components.stages import STAGE_NAMES

    for name in names:
        if name not in STAGE_NAMES:
            raise UserError(f"--only {name}: there is no such stage; the stages are {', '.join(STAGE_NAMES)}")
    return names


def _nothing_stale(root: Path, *, accept_data: bool, started: float) -> bool:
    """Whether data are committed, no stage is stale and no model waits for its verdict; then the run is recorded and its table printed."""
    from components.errors import StageFault
    from components.registry.promotion import settled
    from components.report.run_record import close_record, open_record
    from components.report.summary import RunRecord, StageRecord, not_judged
    from components.report.table import print_summary
    from components.storage.data_version import check_removals, data_state
    from components.storage.plan import plan
    from components.storage.scratch import remove_finished_scratch
    from components.tracking.provenance import git_state

    state = data_state(root)
    check_removals(state, accept=accept_data)
    if state.differs:
        return False
    steps = plan(root)
    if any(step.action != "skip" for step in steps.values()):
        return False
    try:
        verdicts = settled(root)
    except StageFault as error:
        print(f"nothing was judged: {error}; the next run judges")
        found = not_judged(error)
    else:
        if verdicts is None:
            return False
        found = verdicts.summary()
    remove_finished_scratch(root, steps)
    records = {name: StageRecord("skipped") for name in steps}
    record = RunRecord("running", records, data_version=state.version, git_sha=git_state(root).sha, verdicts=found)
    open_record(root, record)
    record.status = "ok"
    close_record(root, record, started)
    print_summary(root)
    return True
