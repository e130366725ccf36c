"""`mmalign plan`: what a run would do to each stage, and why; with --memory, what each stage would take. Nothing is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json
from components.operations.environment import enter_checkout
from components.printable import open_console
from components.stages import STAGE_NAMES

if TYPE_CHECKING:
    from components.config.settings import Settings

WORDS = {"run": "run", "run_if_changed": "run if changed", "restore": "restore", "skip": "skip"}
STYLES = {"run": "bold yellow", "run_if_changed": "yellow", "restore": "cyan", "skip": "dim"}


def plan(
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="as if your settings said so; not written")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="show memory, disk and time of each stage instead")] = False,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="with --memory: a device that is not here, as h100")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Show which stages would run, be restored from DVC's cache or be skipped, and why; and what a run still lacks."""
    from components.config.overrides import changed_settings
    from components.config.settings import load_settings

    if device is not None and not memory:
        raise UserError("--device goes with --memory only: add it")
    checkout = enter_checkout()
    params = Path("params.yaml")
    texts = changed_settings(params, assignments or [])
    settings = load_settings(params, texts)
    if memory:
        _memory(checkout, settings, device, as_json=as_json)
        return
    from components.operations.preconditions.checks import GATE, checked, unmet
    from components.operations.preconditions.checks import as_json as preconditions_json
    from components.operations.preconditions.critiques import chosen_source, critiques
    from components.operations.preconditions.situation import Situation, stages_to_run
    from components.storage.plan import plan as plan_stages

    steps = plan_stages(checkout, texts.get(params))
    to_run = stages_to_run(steps)
    situation = Situation(checkout, settings, to_run)
    every = checked(situation) if to_run else {}
    findings = unmet(every)
    if as_json:
        stages = {name: {"action": step.action, "reason": step.reason} for name, step in steps.items()}
        source = chosen_source(situation)
        values = {"stages": stages, "critique_source": source, "preconditions": preconditions_json(findings)}
        rules = every[GATE].details if every else None
        print(json.dumps({**values, "gate_rules": rules, "fresh_rows": fresh_rows(checkout)}, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "action", "reason"):
        table.add_column(title, overflow="fold")
    for name, step in steps.items():
        table.add_row(name, f"[{STYLES[step.action]}]{WORDS[step.action]}[/]", Text(step.reason))
    from components.cli.run.preconditions import render as render_preconditions

    console = open_console()
    console.print(table)
    if "reward" in to_run and "critiques" not in findings:
        console.print(Text.assemble(("reward", "bold"), f": {critiques(situation).text}"))
    if "evaluate" in to_run and GATE not in findings:
        console.print(Text.assemble(("gate", "bold"), f": {every[GATE].text}"))
    if fresh := fresh_rows(checkout):
        console.print(Text.assemble(("gate", "bold"), f": {fresh}"))
    if findings:
        console.print(render_preconditions(findings))


def fresh_rows(checkout: Checkout) -> str | None:
    """What the last verdict asks for where the next one could no longer show that a policy is as safe; None where it asks for nothing."""
    path = checkout.root / "reports/summary.json"
    policy = (read_json(path).get("gate") or {}).get("mm-policy") or {} if path.is_file() else {}
    cure: str | None = policy.get("reuse", {}).get("unsafe", {}).get("cure")
    return cure


def _memory(checkout: Checkout, settings: Settings, device: str | None, *, as_json: bool) -> None:
    from components.operations.preconditions.situation import Situation
    from components.rehearsal.devices import planned_machine
    from components.rehearsal.ledger import as_json as ledger_json
    from components.rehearsal.ledger import ledger
    from components.rehearsal.plan import as_json as plan_json
    from components.rehearsal.plan import make_plan

    memory_plan = make_plan(settings, checkout, planned_machine(settings, device))
    here = device in {None, "cpu"}  # a named device is in another machine, with other disks
    volumes = ledger(memory_plan, checkout, STAGE_NAMES, Situation(checkout, settings).data)
    if as_json:
        print(json.dumps({**plan_json(memory_plan), "disk": ledger_json(volumes)}, indent=2))
    else:
        from components.cli.run.plan_memory import render

        open_console().print(render(memory_plan, volumes, checkout.root, here=here))
    if memory_plan.cures is not None or (here and any(volume.lacking for volume in volumes)):
        raise typer.Exit(1)
