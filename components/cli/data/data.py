"""`mmalign data`: what people do with the data before a run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from components.errors import UserError
from components.operations.environment import enter_checkout

app = typer.Typer(help="Prepare the data of a run.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Prepare the data of a run."""


@app.command("expand")
def expand(
    estimate: Annotated[bool, typer.Option("--estimate", help="say what it would cost at most, and end")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="pay without being asked")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Expand the rows' short reasons into critiques by the server `endpoint.expansion`, into data/preferences/expanded.jsonl.

    Every expansion is checked; those that fail lie in expanded-quarantine.jsonl with the reason. A stopped command resumes.
    """
    from components.critique.expansion import Expander

    checkout = enter_checkout()
    expander = Expander(checkout.settings(), checkout)
    cost = expander.estimate()
    if estimate:
        print(json.dumps(asdict(cost)) if as_json else cost.sentence("expansions", expander.client.server.url))
        return
    if cost.cost > 0 and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"the expansions may cost {cost.cost:.2f}: pass --yes, or see --estimate")
        print(cost.sentence("expansions", expander.client.server.url), file=sys.stderr)
        typer.confirm("Continue?", abort=True, err=True)
    result = expander.expand()
    counts = dict(sorted(result.counts().items()))
    if as_json:
        print(json.dumps({"expanded": len(result.expansions), "quarantined": counts, "cost": expander.client.usage.cost}))
        return
    words = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "none"
    print(f"data/preferences/expanded.jsonl: {len(result.expansions)} expansions; quarantined: {words}")
    print("next: read some of them, then mmalign run --set reward.critique_source=expanded")
