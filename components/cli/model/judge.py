"""`mmalign judge`: measures how often a judge is wrong, on answers that people labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from components.cli.stdout import output_on_stderr
from components.errors import UserError
from components.files import write_json
from components.operations.environment import enter_checkout

app = typer.Typer(help="Measure the error of a judge of answers.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep `calibrate` a word of the command."""


@app.command("calibrate")
def calibrate(
    labels: Annotated[
        list[Path], typer.Option("--labels", metavar="FILE", help="labelled answers, JSONL (docs/judges.md); repeat for several")
    ],
    judge: Annotated[
        str, typer.Option("--judge", metavar="NAME", help="rules, model, ground_truth, or chain: those of evaluate.judges together")
    ] = "rules",
    save: Annotated[bool, typer.Option("--save", help="write the sheet to judges/sheets, where evaluations read it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Compare a judge's verdicts with people's labels: agreement, precision, sensitivity, specificity and the share answered, with intervals."""
    from components.evaluation.calibration import calibrate as calibrate_judge
    from components.evaluation.verdict import CHAIN

    here = Path.cwd()
    checkout = enter_checkout()
    with output_on_stderr(as_json):
        sheet = calibrate_judge(judge, [(here / path).resolve() for path in labels], checkout.settings(), checkout)
    path = checkout.judge_sheets / f"{judge}.json"
    if save and judge == CHAIN:
        raise UserError(
            "the chain has no sheet of its own: metrics are corrected by the sheet of the judge that decided; save those one by one"
        )
    if save:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, sheet)
    if as_json:
        print(json.dumps(sheet, indent=2, ensure_ascii=False))
        return
    _print(sheet)
    if judge == CHAIN:
        return
    shown = path.relative_to(checkout.root)
    print(f"saved as {shown}" if save else f"to correct metrics by it, save it as {shown}: the same command with --save")


def _print(sheet: dict[str, Any]) -> None:
    columns = ("answered", "agreement", "precision", "sensitivity", "specificity")
    print(f"{'':26}{'answers':>8}" + "".join(f"{name:>22}" for name in columns))
    rows = {"all": sheet["overall"], **{f"task {name}": task["overall"] for name, task in sheet["tasks"].items()}}
    rows |= {f"kind {name}": row for name, row in sheet["by_kind"].items()} | {
        f"language {name}": row for name, row in sheet["by_language"].items()
    }
    for name, row in rows.items():
        print(f"{name:26}{row['answers']:>8}" + "".join(f"{_share(row[column]):>22}" for column in columns))
    if sheet["outside"]["silent"]:
        print(f"silent in other languages: {_share(sheet['outside']['silent'])} of {sheet['outside']['answers']}")


def _share(share: dict[str, float] | None) -> str:
    return "-" if share is None else f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
