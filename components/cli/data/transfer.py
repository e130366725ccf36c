"""`mmalign data import`, `export` and `new`: preferences in and out, and the beginning of a team's own data."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout
from components.processes.guard import run_lock

if TYPE_CHECKING:
    from components.preferences.importing.report import ImportReport
    from components.preferences.importing.run import Mode, Request

FORMATS = "auto|mm_rlhf|mm_rlhf_pairs|trl|llama_factory|swift|rlhf_v|rlaif_v|vlfeedback|hf"
TARGETS = {False: "data.jsonl", True: "heldout.jsonl"}

FormatOption = Annotated[str, typer.Option("--format", metavar=FORMATS, help="the rows' format; by default it is recognized")]
MediaOption = Annotated[Path | None, typer.Option("--media", metavar="DIR", help="the folder to which media paths are relative")]
SplitOption = Annotated[str | None, typer.Option("--split", metavar="NAME", help="the split of a data set that has several")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


def import_rows(  # noqa: PLR0913 -- each option of the command is an argument
    source: Annotated[str, typer.Argument(metavar="SRC", help="a file, folder or archive of rows, or hf:ID")],
    format_name: FormatOption = "auto",
    media: MediaOption = None,
    split: SplitOption = None,
    heldout: Annotated[bool, typer.Option("--heldout", help="into heldout.jsonl instead of data.jsonl")] = False,
    append: Annotated[bool, typer.Option("--append", help="add the rows to those that are there")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="put the rows in place of those that are there")] = False,
    processes: Annotated[int, typer.Option("--processes", min=0, help="0: one a core")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Import preferences: pairs or rankings, as JSON, Parquet, a Hugging Face folder, WebDataset, zip or tar, into data/preferences.

    A stopped import resumes when the same command runs. reports/import.json holds the counts, import-places.jsonl each row left out.
    """
    from components.preferences.importing.run import Request

    if append and replace:
        raise UserError("--append and --replace exclude each other: choose one")
    source, media = _absolute(source), None if media is None else media.expanduser().absolute()
    checkout = _checkout()
    mode: Mode = "append" if append else "replace" if replace else "new"
    request = Request(source, format_name, media, split, TARGETS[heldout], mode, processes)
    report = _import(request, checkout)
    _print(report, as_json=as_json)


def export_rows(
    format_name: Annotated[str, typer.Option("--format", metavar=FORMATS.removeprefix("auto|").removesuffix("|hf"), help="the format")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="a new folder for the rows and their media")],
    heldout: Annotated[bool, typer.Option("--heldout", help="heldout.jsonl instead of data.jsonl")] = False,
    as_json: JsonOption = False,
) -> None:
    """Export the rows of data/preferences, with their media, in a format that other trainers read."""
    out = out.expanduser().absolute()
    from components.preferences.exporting import export_preferences

    report = export_preferences(enter_checkout(), format_name, out, TARGETS[heldout])
    print(json.dumps(vars(report), indent=2) if as_json else "\n".join(report.lines()))


def new(
    source: Annotated[str | None, typer.Option("--from", metavar="SRC", help="import these rows then, as `data import` does")] = None,
    format_name: FormatOption = "auto",
    media: MediaOption = None,
    split: SplitOption = None,
    processes: Annotated[int, typer.Option("--processes", min=0, help="0: one a core")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Begin your own data: the bundled rows, media and ground truth leave data/ as a new version. The base model stays, and all that is yours.

    `git checkout data.dvc && dvc checkout data.dvc` brings the bundled data back.
    """
    from components.preferences.importing.run import Request
    from components.storage.own_data import begin

    source, media = None if source is None else _absolute(source), None if media is None else media.expanduser().absolute()
    checkout = _checkout()
    with run_lock(checkout):
        removed = begin(checkout, _log)
    report = None if source is None else _import(Request(source, format_name, media, split, processes=processes), checkout)
    if as_json:
        print(json.dumps({"removed": removed, "import": None if report is None else report.as_json()}, indent=2))
        return
    print(f"{removed:,} bundled files removed from data/" if removed else "nothing bundled lies in data/ but the base model, which stays")
    if report is not None:
        _print(report, as_json=False)
    else:
        print("next: mmalign data import SRC, or put rows into data/preferences/data.jsonl (docs/data-format.md)")


def _log(words: str) -> None:
    print(words, file=sys.stderr)


def _checkout() -> Checkout:
    """The checkout. An import may connect to the hub, unless the person's environment forbids it."""
    offline = os.environ.get("HF_HUB_OFFLINE")
    checkout = enter_checkout()
    os.environ["HF_HUB_OFFLINE"] = offline or "0"
    return checkout


def _absolute(source: str) -> str:
    """A path as it is after the command has changed to the checkout; an id on the hub stays."""
    prefix = "hf:" if source.startswith("hf:") else ""
    path = Path(source.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.absolute()}" if path.exists() or not prefix else source


def _import(request: Request, checkout: Checkout) -> ImportReport:
    """Import; on a terminal, a person chooses where several formats fit."""
    from components.preferences.formats.detection import AmbiguousFormat
    from components.preferences.importing.run import import_preferences

    try:
        return import_preferences(request, checkout, _log)
    except AmbiguousFormat as error:
        if not sys.stdin.isatty():
            raise
        _log(str(error))
        chosen = ""
        while chosen not in error.candidates:
            chosen = typer.prompt(f"Format ({', '.join(error.candidates)})", err=True)
        return import_preferences(replace(request, format=chosen), checkout, _log)


def _print(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
        return
    print("\n".join(report.lines()))
    if report.refused or report.changed:
        print("each of them, with file and line: reports/import-places.jsonl")
    print("next: mmalign plan, then mmalign run")
