"""`mmalign plan`: what a run would do to each stage, and why. Nothing is changed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

WORDS = {"run": "run", "run_if_changed": "run if changed", "restore": "restore", "skip": "skip"}
STYLES = {"run": "bold yellow", "run_if_changed": "yellow", "restore": "cyan", "skip": "dim"}


def plan(
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="as if params.yaml said so; not written")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Show which stages would run, be restored from DVC's cache or be skipped, and why."""
    from pathlib import Path

    from components.cli.environment import enter_checkout
    from components.cli.overrides import changed_settings
    from components.config import load_settings
    from components.storage.plan import plan as plan_stages

    root = enter_checkout()
    load_settings(root / "params.yaml")
    text = changed_settings(Path("params.yaml"), assignments) if assignments else None
    steps = plan_stages(root, text)
    if as_json:
        print(json.dumps({"stages": {name: {"action": step.action, "reason": step.reason} for name, step in steps.items()}}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "action", "reason"):
        table.add_column(title, overflow="fold")
    for name, step in steps.items():
        table.add_row(name, f"[{STYLES[step.action]}]{WORDS[step.action]}[/]", step.reason)
    Console(highlight=False).print(table)
