"""A rehearsal before a run that may take long, where base, machine or settings are new."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from components.checkout import Checkout
from components.errors import UserError
from components.rehearsal.devices import this_machine
from components.rehearsal.rehearse import rehearse
from components.rehearsal.rehearsed import needs_rehearsal, record
from components.rehearsal.verdict import verdict
from components.stages import StageName


def log(sentence: str) -> None:
    """A line of progress, which is no part of a command's output."""
    print(f"rehearsal: {sentence}", file=sys.stderr, flush=True)


def rehearse_first(checkout: Checkout, to_run: Sequence[StageName], log: Callable[[str], None] = log) -> None:
    """Rehearse a run that trains, where that is needed. Raises UserError where it does not fit."""
    if {"reward", "align"}.isdisjoint(to_run):
        return
    settings, machine = checkout.settings(), this_machine()
    if not needs_rehearsal(checkout, settings, machine):
        return
    log("this run may take long, and base, machine or settings are new: trying every stage first (--no-rehearsal leaves that out)")
    rehearsal = rehearse(checkout, settings, machine, log)
    record(checkout, rehearsal)
    if not rehearsal.fits:
        raise UserError(verdict(rehearsal))
    log(verdict(rehearsal))
