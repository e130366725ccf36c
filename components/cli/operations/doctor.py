"""`mmalign doctor`: checks whether a run would work here, and prints cures. It changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout, find_checkout
from components.operations.services.state import addresses_file
from components.printable import open_console

if TYPE_CHECKING:
    from components.operations.doctor.findings import Finding

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False) -> None:
    """Check environment, machine, checkout and services. The exit code is 1 if a run would fail."""
    from components.operations.doctor.checks import BESIDE, CHECKS
    from components.operations.doctor.findings import as_json as findings_as_json
    from components.operations.doctor.findings import run_checks
    from components.operations.doctor.services import be_quick

    try:
        checkout = enter_checkout()
    except UserError:  # passwords readable by others, or their file damaged: a check reports it beside the others
        checkout = find_checkout()
    be_quick()
    findings = run_checks(checkout, {**CHECKS, "deployments": _deployments}, BESIDE)
    if as_json:
        print(json.dumps(findings_as_json(findings), indent=2))
    else:
        open_console().print(render(findings))
    raise typer.Exit(int(any(finding.state == "problem" for finding in findings.values())))


def _deployments(checkout: Checkout) -> Finding:
    """The server's deployments; without services Prefect's client is not loaded."""
    from components.operations.doctor.findings import ok

    if not addresses_file(checkout).is_file():
        from components.operations.doctor.team import NO_SERVICES

        return ok(NO_SERVICES)
    from flows.checks import deployments

    return deployments(checkout)


def render(findings: Mapping[str, Finding]) -> Group:
    """The findings as a table, each cure below its problem, and a sentence with their counts."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in findings.items():
        words = Text.assemble((name, "bold"), f": {finding.text}")
        if finding.cure is not None:
            words.append(f"\ncure: {finding.cure}", style="cyan")
        table.add_row(Text(finding.state, style=STYLES[finding.state]), words)
    return Group(table, Text(), _verdict(findings))


def _verdict(findings: Mapping[str, Finding]) -> Text:
    counts = {state: sum(finding.state == state for finding in findings.values()) for state in ("problem", "warning")}
    if not any(counts.values()):
        return Text("all is well", style="green")
    words = [f"{count} {state}{'s' if count != 1 else ''}" for state, count in counts.items() if count]
    return Text(" and ".join(words), style=STYLES["problem" if counts["problem"] else "warning"])
