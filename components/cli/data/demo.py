"""`mmalign demo`: builds the bundled data set and its base model from a public data package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.operations.environment import enter_checkout

app = typer.Typer(help="Build the bundled data and the bundled base model.", no_args_is_help=True, rich_markup_mode=None)


@app.command("build")
def build(
    noise: Annotated[
        float, typer.Option("--noise", help="share of rankings to reverse, from 0 to 1, for a trial of noisy preferences")
    ] = 0.0,
) -> None:
    """Write data/preferences and data/truth from the easy-vqa package, with the same bytes every time."""
    from demo.build import build as build_demo

    build_demo(enter_checkout(), noise)


@app.command("bench")
def bench() -> None:
    """Write data/bench, the benchmark of reward models, from the easy-vqa package, with the same bytes every time."""
    from demo.bench import build_bench

    checkout = enter_checkout()
    print(f"data/bench: {build_bench(checkout.data / 'bench')} pairs")


@app.command("train-base")
def train_base(
    start: Annotated[
        Path | None, typer.Option("--start", help="folder of an earlier base that learns the new words, instead of from nothing")
    ] = None,
) -> None:
    """Train data/base, the tiny vision-language model that wrote the bundled responses (slow)."""
    from demo.train_base import train_base as train

    train(enter_checkout(), start=None if start is None else start.absolute())


@app.command("bundle")
def bundle(yes: Annotated[bool, typer.Option("--yes", help="write infra/bundled-data without asking")] = False) -> None:
    """Copy data/ into infra/bundled-data and pin data.dvc to it. For maintainers of this repository."""
    from components.storage.bundle import bundle as bundle_data

    checkout = enter_checkout()
    if not yes:
        typer.confirm("This replaces the data that the repository ships. Continue?", abort=True)
    bundle_data(checkout)
