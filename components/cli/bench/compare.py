"""`mmalign compare`: two models on what both were run on."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout

if TYPE_CHECKING:
    from components.benches.sides import Evaluate
    from components.registry.versions import Version

Named = Annotated[
    str, typer.Argument(help="a checkpoint's folder, a version such as mm-policy/3 or mm-policy@champion, or a run of MLflow")
]
SHOWN = 20  # comparisons that the table shows


def compare(
    a: Named,
    b: Named,
    correction: Annotated[str, typer.Option("--correction", help="for many comparisons: holm or bh")] = "holm",
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="evaluate a registered version on today's held-out rows where it has no results")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Compare B with A by benchmark, category and cluster; what got worse comes first."""
    names = tuple(str(Path(name).resolve()) if Path(name).is_dir() else name for name in (a, b))
    checkout = enter_checkout()
    from components.benches.comparison import CORRECTIONS
    from components.benches.sides import compare_models
    from components.statistics import Intervals

    chosen = next((name for name in CORRECTIONS if name == correction), None)
    if chosen is None:
        raise UserError(f"--correction {correction!a} is none of {', '.join(CORRECTIONS)}")
    intervals = Intervals(checkout.settings().evaluate.confidence)
    result = compare_models(checkout, (names[0], names[1]), chosen, intervals, _evaluator(checkout) if evaluate else None)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"B against A: {len(result['worse'])} of {len(result['comparisons'])} comparisons are worse, {len(result['better'])} better ({chosen})"
    )
    for entry in result["comparisons"][:SHOWN]:
        ends = "too few clusters" if entry["low"] is None else f"[{entry['low']:+.3f}, {entry['high']:+.3f}]"
        seen = "" if entry["detectable"] is None else f", can see {entry['detectable']:.3f}"
        name = f"{entry['benchmark']} {entry['measure']}{f', {category}' if (category := entry['category']) else ''}"
        print(
            f"{'*' if entry['significant'] else ' '} {name:50} {entry['a']:.3f} -> {entry['b']:.3f}  gain {entry['gain']:+.3f} {ends}{seen}"
        )
    for side, names_alone in result["only"].items():
        if names_alone:
            print(f"only {side.upper()} has results on {', '.join(names_alone)}")


def _evaluator(checkout: Checkout) -> Evaluate:
    from components.registry.registry import Registry
    from flows.console import Console
    from flows.promote import reevaluator

    logs = Path("logs") / time.strftime("%Y%m%d-%H%M%S")
    reevaluate = reevaluator(checkout, checkout.settings(), logs=logs, cancel=threading.Event(), console=Console())

    def evaluate(version: Version, target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            target.parent.mkdir(parents=True, exist_ok=True)
            reevaluate(version.name, Registry(checkout).fetch(version, Path(scratch) / "model"), target)

    return evaluate
