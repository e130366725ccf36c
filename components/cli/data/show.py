"""`mmalign data show`: what the model is given of one row."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from components.operations.environment import enter_checkout


def show(
    position: Annotated[str, typer.Argument(metavar="FILE:LINE", help="a row of a JSONL file, whose media lie beside the file")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="a new folder for the pictures, shown.txt and shown.json")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Write what the model is given of a row: pictures as read, texts with special tokens, where loss is taken, lengths.

    The base and the settings are those of params.yaml. In shown.txt, loss is taken on the tokens marked with *.
    """
    from components.report.shown import described, show_row

    name, colon, line = position.rpartition(":")
    position, out = f"{Path(name).absolute()}{colon}{line}" if name else position, out.absolute()
    checkout = enter_checkout()
    shown = show_row(position, out, checkout.settings(), checkout)
    print(json.dumps(asdict(shown) | {"out": str(out)}) if as_json else described(shown) + f"\nwritten to {out}")
