"""`mmalign bench rate` and `mmalign bench NAME`: this machine's training rate, and the measurements of benchmarks/."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from components.checkout import IN_CHECKOUT, Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout

BENCHMARKS = Path("benchmarks")
COMMANDS = ("aggregate", "list", "measure", "policy", "rate", "reward", "setup")
MEASURE = "measure"


def rate(
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting for this measurement; not written")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Measure the training rate of this machine, for `mmalign plan --memory`."""
    _rate(enter_checkout(), assignments or [], as_json=as_json)


def measure(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="a measurement of benchmarks/; its own arguments follow")],
) -> None:
    """Run a measurement of benchmarks/ with the arguments after its name."""
    raise typer.Exit(_run(enter_checkout(), name, context.args))


def benchmarks(checkout: Checkout) -> list[str]:
    """Names of the benchmarks: the runnable modules of benchmarks/."""
    return sorted(path.stem for path in (checkout.root / BENCHMARKS).glob("[!_]*.py") if '"__main__"' in path.read_text(encoding="utf-8"))


def about(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _run(checkout: Checkout, name: str, arguments: list[str]) -> int:
    available = benchmarks(checkout)
    if name not in available:
        raise UserError(f"bench {name}: there is no such benchmark; there are {', '.join([*COMMANDS, *available])}")
    return subprocess.run([sys.executable, "-m", f"{BENCHMARKS}.{name}", *arguments], check=False).returncode


def _rate(checkout: Checkout, assignments: list[str], *, as_json: bool) -> None:
    from components.config.overrides import changed_settings
    from components.config.settings import load_settings
    from components.rehearsal.architectures import find_architecture
    from components.rehearsal.rate import measure, store_rate

    settings = load_settings(checkout.params, changed_settings(checkout.params, assignments))
    model, _ = find_architecture(settings, checkout)
    rate = measure(settings, model, lambda words: print(words, file=sys.stderr))
    store_rate(checkout, settings, model, rate)
    if as_json:
        print(json.dumps(asdict(rate), indent=2))
        return
    cut = "" if rate.layers == rate.of_layers else f" (extrapolated from {rate.layers} of {rate.of_layers} layers)"
    print(f"{rate.tokens_per_second:,.0f} tokens/s a rank{cut}, {rate.flops_per_second / 1e9:,.1f} GFLOP/s; stored in {IN_CHECKOUT.rates}")
