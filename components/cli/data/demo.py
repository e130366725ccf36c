"""`mmalign demo`: builds the bundled data set and its base model from a public data package."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Build the bundled data and the bundled base model.", no_args_is_help=True, rich_markup_mode=None)


@app.command("build")
def build() -> None:
    """Write data/preferences and data/truth from the easy-vqa package, with the same bytes every time."""
    from components.operations.environment import enter_checkout
    from demo.build import build as build_demo

    build_demo(enter_checkout())


@app.command("train-base")
def train_base() -> None:
    """Train data/base, the tiny vision-language model that wrote the bundled responses (slow)."""
    from components.operations.environment import enter_checkout
    from demo.train_base import train_base as train

    train(enter_checkout())


@app.command("bundle")
def bundle(yes: Annotated[bool, typer.Option("--yes", help="write infra/bundled-data without asking")] = False) -> None:
    """Copy data/ into infra/bundled-data and pin data.dvc to it. For maintainers of this repository."""
    from components.operations.environment import enter_checkout
    from components.storage.bundle import bundle as bundle_data

    checkout = enter_checkout()
    if not yes:
        typer.confirm("This replaces the data that the repository ships. Continue?", abort=True)
    bundle_data(checkout)
