"""`mmalign run`: from changed data to a new model. The flow does the work in its own process; this module adds the short cut.

1. Take the checkout's run lock: one run at a time, and none beside leftovers of an earlier run.
2. Check all of `--set`. Ask DVC, in this process, which stages are stale, and check that the machine and the checkout have what those need.
   Only then write `--set` into params.yaml.
3. If no stage is stale and the registry has no model without a verdict, record that, without a server.
4. Else start the flow, pass signals on to it, and end all its processes.
5. Print the summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.checkout import Checkout

if TYPE_CHECKING:
    from components.stages import StageName
    from components.storage.data_version import DataState
    from components.storage.plan import Step


def run(  # noqa: PLR0913 -- each option of the command is an argument
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STAGE", help="run only this stage, if it is stale; repeat for more")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="write a setting into params.yaml first; repeat for more")
    ] = None,
    accept_data: Annotated[bool, typer.Option("--accept-data", help="accept removed files of data/ into the new data version")] = False,
    bundled_rows: Annotated[
        bool, typer.Option("--bundled-rows", help="train another base than the bundled one on the bundled rows")
    ] = False,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="judge the models and promote those that pass")] = True,
    deployment: Annotated[
        str | None, typer.Option("--deployment", metavar="NAME", help="start a run of this deployment on the worker")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="with --deployment: follow the run to its end")] = False,
    source: Annotated[
        str | None, typer.Option("--source", metavar="checkout|git", help="with --deployment: the checkout, or a clone")
    ] = None,
    ref: Annotated[str | None, typer.Option("--ref", help="with --source git: the branch, tag or commit")] = None,
    no_rehearsal: Annotated[bool, typer.Option("--no-rehearsal", help="start a long run without `mmalign rehearse` first")] = False,
) -> None:
    """Run the stale stages: commit changed data, train, evaluate, record."""
    if deployment is not None:
        from components.cli.operations.deployment import run_deployment

        parameters = {
            "overrides": assignments or None,
            "stages": only or None,
            "accept_data": accept_data or None,
            "bundled_rows": bundled_rows or None,
            "promote": None if promote else False,
            "source": source,
            "ref": ref,
        }
        raise typer.Exit(run_deployment(deployment, {key: value for key, value in parameters.items() if value is not None}, wait=wait))
    import time

    started = time.time()
    from components.cli.run.overrides import changed_settings, settings_with
    from components.errors import UserError
    from components.files import write_atomic
    from components.operations.environment import enter_checkout
    from components.operations.preconditions.checks import require, require_base
    from components.operations.preconditions.situation import Situation, stages_to_run
    from components.operations.services.health import require_services
    from components.processes.guard import run_lock
    from components.registry.policy import POLICY_FILE, load_policy
    from components.storage.data_version import check_removals, data_state
    from components.storage.plan import plan

    for flag, value in (("--wait", wait), ("--source", source), ("--ref", ref)):
        if value:
            raise UserError(f"{flag} belongs to a run of a deployment: add --deployment NAME")
    checkout = enter_checkout()
    require_services(checkout)
    stages = _checked_stages(only or [])
    path = Path("params.yaml")
    with run_lock(checkout) as lock:
        text = changed_settings(path, assignments) if assignments else None
        settings = settings_with(path, text)
        load_policy(checkout.root / POLICY_FILE)
        require_base(Situation(checkout, settings))  # before data/ is hashed and the graph is read
        state = data_state(checkout)
        check_removals(state, accept=accept_data)
        # What data that are yet to fetch make stale shows once they are here.
        steps = None if state.missing and not accept_data else plan(checkout, text)
        to_run = stages_to_run(steps, tuple(stages))
        require(Situation(checkout, settings, to_run, state, bundled_rows), lambda words: print(words, flush=True))
        if text is not None:
            write_atomic(path, text)
        if promote and steps is not None and not state.differs and _nothing_stale(checkout, state, steps, started):
            code = 0
        else:
            from components.cli.run.flow_process import run_flow

            if not no_rehearsal and not stages and not {"reward", "align"}.isdisjoint(to_run):
                _rehearse_first(checkout)
            code = run_flow(checkout, {"only": stages, "accept_data": accept_data, "promote": promote, "started": started}, lock)
    raise typer.Exit(code)


def _rehearse_first(checkout: Checkout) -> None:
    """Rehearse a run that may take long, where base, machine or settings are new. Raises UserError where it does not fit."""
    from components.errors import UserError
    from components.rehearsal.devices import this_machine
    from components.rehearsal.rehearse import rehearse
    from components.rehearsal.rehearsed import needs_rehearsal, record

    settings, machine = checkout.settings(), this_machine()
    if not needs_rehearsal(checkout, settings, machine):
        return
    from components.cli.run.rehearse import log, verdict

    log("this run may take long, and base, machine or settings are new: trying every stage first (--no-rehearsal leaves that out)")
    rehearsal = rehearse(checkout, settings, machine, log)
    record(checkout, rehearsal)
    if not rehearsal.fits:
        raise UserError(verdict(rehearsal))
    log(verdict(rehearsal))


def _checked_stages(names: list[str]) -> list[StageName]:
    from components.errors import UserError
    from components.stages import STAGE_NAMES

    for name in names:
        if name not in STAGE_NAMES:
            raise UserError(f"--only {name}: there is no such stage; the stages are {', '.join(STAGE_NAMES)}")
    return [stage for stage in STAGE_NAMES if stage in names]


def _nothing_stale(checkout: Checkout, state: DataState, steps: Mapping[str, Step], started: float) -> bool:
    """Whether no stage is stale and no model waits for a verdict, where the data are committed. If so, record the run and print its table."""
    from components.errors import StageFault
    from components.registry.promotion import recorded_verdicts
    from components.report.run_record import close_record, open_record
    from components.report.summary import RunRecord, StageRecord, not_judged
    from components.report.table import print_summary
    from components.storage.scratch import remove_finished_scratch
    from components.tracking.provenance import git_state

    if any(step.action != "skip" for step in steps.values()):
        return False
    try:
        verdicts = recorded_verdicts(checkout)
    except StageFault as error:
        print(f"nothing was judged: {error}; the next run judges")
        summary = not_judged(error)
    else:
        if verdicts is None:
            return False
        summary = verdicts.summary()
    remove_finished_scratch(checkout, steps)
    records = {name: StageRecord("skipped") for name in steps}
    record = RunRecord("running", records, data_version=state.version, git_sha=git_state(checkout).sha, verdicts=summary)
    open_record(checkout, record)
    record.status = "ok"
    close_record(checkout, record, started)
    print_summary(checkout)
    return True
