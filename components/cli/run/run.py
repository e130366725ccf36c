"""`mmalign run`: from changed data to a new model. The flow does the work in its own process; this module adds the short cut.

`--seeds` repeats it with other seeds (components/cli/run/seeds.py). A run is (components/cli/run/one_run.py):

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
from typing import Annotated, Any

import typer

from components.errors import UserError
from components.operations.environment import enter_checkout
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
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", metavar="N", help="then train and evaluate the policy with N seeds, and print the metrics' spread"),
    ] = None,
    reward: Annotated[bool, typer.Option("--reward", help="with --seeds: the reward model too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --seeds: print the spread as JSON, and all else on stderr")] = False,
) -> None:
    """Run the stale stages: commit changed data, train, evaluate, record."""
    started = time.time()
    _refuse_strays(
        {"--wait": wait, "--source": source, "--ref": ref},
        deployment is not None,
        "belongs to a run of a deployment: add --deployment NAME",
    )
    _refuse_strays({"--reward": reward, "--json": as_json}, seeds is not None, "belongs to a run over seeds: add --seeds N")
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
        for flag, value in (("--save", save), ("--seeds", seeds is not None)):
            if value:
                raise UserError(f"{flag} belongs to a run in this checkout: leave out --deployment")
        raise typer.Exit(run_deployment(deployment, {key: value for key, value in parameters.items() if value is not None}, wait=wait))
    if save and not assignments:
        raise UserError("--save writes settings into their file: add --set KEY=VALUE")
    from components.cli.run.one_run import Wanted, one_run

    own = enter_checkout()
    wanted = Wanted(
        tuple(assignments or ()),
        tuple(_checked_stages(only or [])),
        save=save,
        accept_data=accept_data,
        bundled_rows=bundled_rows,
        promote=promote,
        rehearse=not no_rehearsal,
    )
    if seeds is None:
        raise typer.Exit(one_run(own, wanted, started))
    from components.cli.run.seeds import run_seeds

    raise typer.Exit(run_seeds(own, wanted, seeds, reward=reward, as_json=as_json))


def _refuse_strays(options: dict[str, Any], belong: bool, why: str) -> None:
    """Raises UserError for an option that has no effect in this run."""
    for flag, value in options.items():
        if value and not belong:
            raise UserError(f"{flag} {why}")


def _checked_stages(names: list[str]) -> list[StageName]:
    for name in names:
        if name not in STAGE_NAMES:
            raise UserError(f"--only {name}: there is no such stage; the stages are {', '.join(STAGE_NAMES)}")
    return [stage for stage in STAGE_NAMES if stage in names]
