"""`mmalign stage NAME`: the command of each stage in dvc.yaml. Run it alone to work on one stage; `dvc repro` and `mmalign run` call it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Annotated

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.files import write_json
from components.operations.environment import enter_checkout
from components.processes.guard import stage_guard
from components.processes.marks import STAGE_MARK
from components.stages import STAGE_NAMES, StageName


def stage(name: Annotated[str, typer.Argument(help="validate, reward, critique, reference, align or evaluate")]) -> None:
    """Run one stage on what lies in the checkout, whether or not it is stale."""
    from components.closures import CODE_STAGE, code_digest, write_digest, write_digests

    checkout = enter_checkout()
    if name == CODE_STAGE:
        write_digests(checkout)
        return
    stage_name = next((stage for stage in STAGE_NAMES if stage == name), None)
    if stage_name is None:
        raise UserError(f"there is no stage '{name}'; the stages are {', '.join(STAGE_NAMES)}")

    def work() -> None:
        from components.tracking.stage import run_stage

        digest = code_digest(stage_name)
        try:
            run_stage(stage_name, checkout)
        finally:
            # DVC records this file when the command has ended: it has to say what ran, whatever was edited and written meanwhile.
            write_digest(checkout, stage_name, digest)

    run_guarded(stage_name, checkout, work)


def run_guarded(name: StageName, checkout: Checkout, work: Callable[[], None]) -> None:
    """Do a stage's `work` as the only copy in this checkout, on cards (or the CPU's slot) that no other checkout uses meanwhile, ended with
    whoever watches it; note the attempt for the supervisor."""
    from components.processes.fault_kinds import fault_kind, sentence_of
    from components.processes.slots.taking import slots_taken

    # A parent that was started in the background passes its ignored signals on, and a stage must be able to end, tidily where it can.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stage_guard(checkout, name):
        noted = checkout.attempts / f"{name}.json"
        # Without a kind an attempt still runs, or was killed.
        attempt: dict[str, str | None] = {"mark": os.environ[STAGE_MARK], "mistake": None, "kind": None, "sentence": None}
        write_json(noted, attempt)
        try:
            # Time in which it waits for a card does not count as the stage's: its run is recorded from here on.
            with slots_taken(name, checkout.settings(), checkout, partial(print, flush=True)):
                work()
        except BaseException as error:
            kind, sentence = fault_kind(error), sentence_of(error)
            write_json(noted, attempt | {"mistake": sentence if kind == "mistake" else None, "kind": kind, "sentence": sentence})
            raise
        write_json(noted, attempt | {"kind": "ok"})


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- the signature of a signal handler
    raise SystemExit(128 + number)
