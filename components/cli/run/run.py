"""`mmalign run`: from changed data to a new model. The flow does the work in its own process; this module adds the short cut.

1. Take the checkout's run lock: one run at a time, and none beside leftovers of an earlier run.
2. Check all of `--set`, which holds for this run: the run works in a copy of the checkout (components/storage/copies.py). With `--save` it
   works in the checkout, and params.yaml or ops.yaml gets the settings once all is checked.
3. Ask DVC, in this process, which stages are stale, and check that the machine and the checkout have what those need.
4. If no stage is stale and the registry has no model without a verdict, record that, without a server (components/cli/run/unchanged.py).
5. Else start the flow, pass signals on to it, and end all its processes.
6. Print the summary.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Annotated

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout
from components.processes.guard import run_lock
from components.stages import STAGE_NAMES, StageName


def run(  # noqa: PLR0913 -- each option of the command is an argument
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STAGE", help="run only this stage, if it is stale; repeat for more")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting for this run alone, in a folder of its own; repeat for more"),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="with --set: write the settings into params.yaml or ops.yaml, where they stay")
    ] = False,
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
        if save:
            raise UserError("--save belongs to a run in this checkout: leave out --deployment")
        raise typer.Exit(run_deployment(deployment, {key: value for key, value in parameters.items() if value is not None}, wait=wait))
    started = time.time()
    from components.cli.run.unchanged import record, recording_process
    from components.operations.preconditions.readiness import make_ready
    from components.storage.copies import workspace_of
    from components.storage.scratch import remove_finished_scratch

    for flag, value in (("--wait", wait), ("--source", source), ("--ref", ref)):
        if value:
            raise UserError(f"{flag} belongs to a run of a deployment: add --deployment NAME")
    if save and not assignments:
        raise UserError("--save writes settings into their file: add --set KEY=VALUE")
    own = enter_checkout()
    stages = _checked_stages(only or [])
    checkout = own if save else workspace_of(own, assignments or [])
    with run_lock(checkout), ExitStack() as stack:
        if checkout != own:
            _work_in_copy(own, checkout, assignments or [], accept_data=accept_data)
        recording = stack.enter_context(recording_process())
        ready = make_ready(checkout, _log, overrides=assignments or [], stages=stages, accept_data=accept_data, bundled_rows=bundled_rows)
        code = None
        if promote and ready.is_current:
            remove_finished_scratch(checkout, ready.steps or {})
            code = record(recording, list(ready.steps or {}), ready.state.version, started)
        if code is None:
            recording.kill()
            from components.cli.run.flow_process import run_flow

            if not no_rehearsal and not stages:
                from components.rehearsal.first import rehearse_first

                rehearse_first(checkout, ready.to_run)
            code = run_flow(checkout, {"stages": stages, "accept_data": accept_data, "promote": promote, "started": started})
    raise typer.Exit(code)


def _work_in_copy(own: Checkout, copy: Checkout, overrides: list[str], *, accept_data: bool) -> None:
    from components.storage.clones import work_in
    from components.storage.copies import commit_data, fill_copy

    commit_data(own, accept=accept_data, log=_log)
    fill_copy(own, copy, overrides, _log)
    work_in(copy, own)


def _log(words: str) -> None:
    print(words, flush=True)


def _checked_stages(names: list[str]) -> list[StageName]:
    for name in names:
        if name not in STAGE_NAMES:
            raise UserError(f"--only {name}: there is no such stage; the stages are {', '.join(STAGE_NAMES)}")
    return [stage for stage in STAGE_NAMES if stage in names]
