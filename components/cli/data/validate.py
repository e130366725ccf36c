"""`mmalign data validate`: what the stage `validate` would refuse in any file, before it is anywhere near a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.operations.environment import enter_checkout

if TYPE_CHECKING:
    from components.validation.outside import FileReport

SHOWN = 20  # refused rows that the terminal names


def validate(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a file of rows, a folder with data.jsonl, or a file of facts")],
    media: Annotated[Path | None, typer.Option("--media", metavar="DIR", help="the media's folder; by default that of the file")] = None,
    show_all: Annotated[bool, typer.Option("--all", help=f"name every refused row, not the first {SHOWN}")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Check rows as a run would: each refused row with file and line, the counts by kind, and what concerns the file as a whole.

    Ends with 2 where a run would stop. Lengths are counted with model.base of params.yaml.
    """
    path, media = path.expanduser().absolute(), None if media is None else media.expanduser().absolute()
    checkout = enter_checkout()
    if _is_ground_truth(path):
        _validate_ground_truth(path, as_json=as_json)
        return
    from components.validation.outside import validate_files
    from components.validation.reader import Reader
    from components.validation.remembered import Remembered
    from components.validation.rows import RowChecks

    settings = checkout.settings()

    def reader_of(folder: Path) -> Reader:
        checks = RowChecks.of(settings, checkout, media or folder)
        return Reader(checks, Remembered(checkout.cache("validated"), checks))

    reports = validate_files(path, reader_of)
    if as_json:
        print(
            json.dumps(
                {"usable": not any(report.problems for report in reports), "files": [report.as_json() for report in reports]}, indent=2
            )
        )
    else:
        for report in reports:
            _print(report, show_all=show_all)
    if any(report.problems for report in reports):
        raise typer.Exit(2)


def _print(report: FileReport, *, show_all: bool) -> None:
    from components.validation.outside import advice

    refused = len(report.refusals)
    print(f"{report.file}: {report.rows:,} rows, {report.usable:,} usable, {refused:,} refused{f': {report.counts()}' if refused else ''}")
    shown = report.refusals if show_all else report.refusals[:SHOWN]
    for item in shown:
        print(f"  {report.file}:{item.line}: {f'{item.field}: ' if item.field else ''}{item.reason}")
    if len(shown) < refused:
        print(f"  and {refused - len(shown):,} more: --all names them, --json lists them for scripts")
    counts = {name: value for name, value in report.metrics.items() if value and name not in {"rows", "quarantined"}}
    if counts:
        words = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value:,}" for name, value in counts.items())
        print(f"  {', '.join(words)}")
    other = advice(report)
    if other is not None:
        print(other, file=sys.stderr)
    for sentence in report.problems:
        print(f"error: {sentence}", file=sys.stderr)


def _is_ground_truth(path: Path) -> bool:
    """Whether the first readable row of a file is a fact, or the file is named as facts are."""
    from components.preferences.json_rows import read_rows

    if not path.is_file():
        return False
    first = next((line.row for line in read_rows(path) if line.row is not None), None)
    return path.name == "truth.jsonl" or (first is not None and {"must", "must_not"} <= first.keys())


def _validate_ground_truth(path: Path, *, as_json: bool) -> None:
    """Facts: their form, and the rows of their ids, in preferences/ beside their folder or in the folder itself."""
    from components.evaluation.judge import read_ground_truth
    from components.operations.preconditions.ground_truth import row_ids, unmatched

    identities = list(read_ground_truth(path))
    folders = (path.parent.parent / "preferences", path.parent)
    rows = next((folder / name for folder in folders for name in ("heldout.jsonl", "data.jsonl") if (folder / name).is_file()), None)
    sentence = None if rows is None else unmatched(identities, row_ids(rows), rows.name)
    if as_json:
        print(
            json.dumps(
                {"usable": True, "facts": len(identities), "rows": None if rows is None else str(rows), "unmatched": sentence}, indent=2
            )
        )
        return
    print(f"{path}: {len(identities):,} facts{'' if rows is None else f', compared with the ids of {rows}'}")
    if sentence is not None:
        print(f"warning: {sentence}", file=sys.stderr)
