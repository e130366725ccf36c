"""`mmalign report`: renders the page of the last run again."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from components.operations.environment import enter_checkout


def report(as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False) -> None:
    """Render reports/report.html from the last run's metrics, answers and record."""
    from components.report.render import render_report

    checkout = enter_checkout()
    path = render_report(checkout).relative_to(checkout.root)
    print(json.dumps({"report": str(path)}) if as_json else path)
