"""`mmalign promote` and `mmalign rollback`: the registry's champion by hand."""

from __future__ import annotations

import getpass
import json
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import UserError
from components.operations.environment import enter_checkout
from components.processes.guard import run_lock

if TYPE_CHECKING:
    from components.registry.policy import ModelName

Model = Annotated[str, typer.Argument(metavar="MODEL", help="mm-policy or mm-reward")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
Because = Annotated[str | None, typer.Option("--because", metavar="REASON", help="why; recorded with the version")]


def promote(
    model: Model,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="number of a registered version")],
    because: Because = None,
    override: Annotated[bool, typer.Option("--override", help="promote against the gate; needs --because")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a registered version through the gate and make it champion. The exit code is 1 when the gate refuses it."""
    checkout = enter_checkout()
    settings = checkout.settings()
    name = _model_name(model)
    with run_lock(checkout):
        from components.registry.promotion import HandPromotion, promote_by_hand
        from flows.console import Console
        from flows.promote import reevaluator

        console = Console()
        logs = Path("logs") / time.strftime("%Y%m%d-%H%M%S")
        reevaluate = reevaluator(checkout, settings, logs=logs, cancel=threading.Event(), console=console)
        outcome = promote_by_hand(checkout, name, version, reevaluate, console.print, HandPromotion(_person(), because, override))
    if as_json:
        number = outcome.version.number if outcome.version else None
        print(json.dumps({"model": name, "version": number, "verdict": outcome.verdict, "reasons": outcome.reasons}, indent=2))
    else:
        number = outcome.version.number if outcome.version else version
        print(f"{name} version {number}: {outcome.verdict}", *(f"  {reason}" for reason in outcome.reasons), sep="\n")
        if outcome.verdict == "refused":
            print('the champion stays; --override --because "..." promotes the version against the gate')
    raise typer.Exit(0 if outcome.verdict == "promoted" else 1)


def rollback(model: Model, because: Because = None, as_json: AsJson = False) -> None:
    """Make the champion's predecessor champion again. No run promotes the rolled-back version again."""
    checkout = enter_checkout()
    name = _model_name(model)
    with run_lock(checkout):
        from components.registry import aliases
        from components.registry.lock import registry_lock
        from components.registry.registry import Registry

        log = partial(print, file=sys.stderr)
        with registry_lock(checkout, log):
            registry = Registry(checkout)
            aliases.recover(registry, name, log)
            rolled_back, champion = aliases.rollback(registry, name, by=_person(), because=because or "no reason given")
    if as_json:
        print(json.dumps({"model": name, "champion": champion.number, "rolled_back": rolled_back.number}, indent=2))
        return
    print(f"{name}: version {champion.number} is champion again; only `mmalign promote` promotes version {rolled_back.number} again")


def _model_name(model: str) -> ModelName:
    from components.registry.policy import MODELS

    matching = next((name for name in MODELS if name == model), None)
    if matching is None:
        raise UserError(f"there is no model '{model}'; the models are {', '.join(MODELS)}")
    return matching


def _person() -> str:
    return getpass.getuser()
