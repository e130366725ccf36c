"""`mmalign rehearse`: before a run that takes hours, whether every stage fits this machine, how fast it is, and how long it will take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.operations.environment import enter_checkout
from components.printable import open_console
from components.processes.guard import run_lock

if TYPE_CHECKING:
    from components.rehearsal.rehearse import Rehearsal, Trial


def rehearse(
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="as if your settings said so; not written")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Run every stage on a few of the longest queries, and say what the whole run takes. Exit code 2 where it does not fit."""
    from components.config.overrides import changed_settings
    from components.config.settings import load_settings
    from components.rehearsal.devices import this_machine
    from components.rehearsal.first import log
    from components.rehearsal.rehearse import rehearse as rehearse_stages
    from components.rehearsal.rehearsed import record

    checkout = enter_checkout()
    params = Path("params.yaml")
    settings = load_settings(params, changed_settings(params, assignments or []))
    with run_lock(checkout):
        rehearsal = rehearse_stages(checkout, settings, this_machine(), log)
    record(checkout, rehearsal)
    from components.operations.preconditions.checks import sentence
    from components.operations.preconditions.gate_rules import gate_rules
    from components.operations.preconditions.situation import Situation

    rules = gate_rules(Situation(checkout, settings))
    if as_json:
        print(json.dumps({**as_dictionary(rehearsal), "gate_rules": rules.details}, indent=2))
    else:
        open_console().print(render(rehearsal, f"gate: {sentence(rules)}"))
    if not rehearsal.fits:
        raise typer.Exit(2)


def as_dictionary(rehearsal: Rehearsal) -> dict[str, Any]:
    """The rehearsal for scripts: bytes and seconds."""
    changes = rehearsal.changes
    return {
        "fits": rehearsal.fits,
        "changes": None if changes is None else [f"{key}={value}" for key, value in changes],
        "machine": {"name": rehearsal.machine.name, "kind": rehearsal.machine.kind, "bytes": rehearsal.machine.memory},
        "queries": {"train": len(rehearsal.sample.train), "heldout": len(rehearsal.sample.heldout)},
        "seconds": round(rehearsal.seconds, 1),
        "stages": {name: _stage(trial) for name, trial in rehearsal.trials.items()},
    }


def _stage(trial: Trial) -> dict[str, Any]:
    metrics = trial.metrics
    base: dict[str, Any] = {"fits": trial.refused is None, "reason": trial.refused}
    if metrics is None:
        return base
    low, estimate, high = metrics.seconds
    return base | {
        "ranks": metrics.ranks,
        "peak_host_bytes": metrics.rank_bytes,
        "launcher_host_bytes": metrics.launcher_bytes,
        "peak_device_bytes": metrics.device_bytes,
        "tokens_per_second": metrics.tokens_per_second,
        "mfu": metrics.mfu,
        "seconds": estimate,
        "seconds_low": low,
        "seconds_high": high,
        "disk_bytes": metrics.disk_bytes,
        "rehearsed_seconds": metrics.trial_seconds,
    }


def render(rehearsal: Rehearsal, gate: str) -> Group:
    """The rehearsal as a table with its verdict, and which rules of the gate apply."""
    from components.rehearsal.sizes import size
    from components.rehearsal.verdict import in_words, verdict

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "ranks", "host a rank", "device a rank", "tokens/s", "MFU", "time", "disk"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for name, trial in rehearsal.trials.items():
        metrics = trial.metrics
        if metrics is None:
            table.add_row(name, "does not fit")
            continue
        low, estimate, high = map(in_words, metrics.seconds)
        table.add_row(
            name,
            str(metrics.ranks),
            size(metrics.rank_bytes),
            size(metrics.device_bytes) if metrics.device_bytes is not None else "–",
            f"{metrics.tokens_per_second:,.0f}" if metrics.tokens_per_second else "–",
            f"{metrics.mfu:.0%}" if metrics.mfu else "–",
            f"{estimate} ({low} to {high})",
            size(metrics.disk_bytes),
        )
    return Group(table, Text(), Text(verdict(rehearsal)), Text(gate))
