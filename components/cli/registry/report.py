"""`mmalign report`: renders the page of the last run again."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from components.operations.environment import enter_checkout


def report(as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False) -> None:
    """Render reports/report.html from the last run's metrics, answers and record."""
    from components.report.render import render_report

    checkout = enter_checkout()
    path = render_report(checkout)
    if path.is_relative_to(checkout.root):
        path = path.relative_to(checkout.root)
    else:
        print(f"mmalign: this user can't write to {checkout.root / 'reports'}, so the page lies elsewhere", file=sys.stderr)
    print(json.dumps({"report": str(path)}) if as_json else path)
