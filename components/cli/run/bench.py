"""`mmalign bench`: measures this machine's training rate, or runs one of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from components.checkout import Checkout

BENCHMARKS = Path("benchmarks")
LISTED, RATE = "list", "rate"


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="rate|list|NAME", help="rate, list, or a benchmark's name")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="with rate: a setting for this measurement; not written")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Measure the training rate of this machine (rate), list the benchmarks (list), or run one with the arguments after its name."""
    from components.errors import UserError
    from components.operations.environment import enter_checkout

    checkout = enter_checkout()
    if assignments and name != RATE:
        raise UserError("--set goes with `mmalign bench rate` only: a benchmark sets its own sizes")
    if name == RATE:
        _rate(checkout, assignments or [], as_json=as_json)
    elif name == LISTED:
        titles = {one: about(checkout.root / BENCHMARKS / f"{one}.py") for one in benchmarks(checkout)}
        width = max((len(one) for one in titles), default=0)
        print(json.dumps(titles, indent=2) if as_json else "\n".join(f"{one:{width}}  {line}" for one, line in titles.items()))
    else:
        raise typer.Exit(_run(checkout, name, [*context.args, *(["--json"] if as_json else [])]))


def benchmarks(checkout: Checkout) -> list[str]:
    """Names of the benchmarks: the runnable modules of benchmarks/."""
    return sorted(path.stem for path in (checkout.root / BENCHMARKS).glob("[!_]*.py") if '"__main__"' in path.read_text(encoding="utf-8"))


def about(path: Path) -> str:
    """The first line of a module's docstring."""
    import ast

    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _run(checkout: Checkout, name: str, arguments: list[str]) -> int:
    import subprocess
    import sys

    from components.errors import UserError

    available = benchmarks(checkout)
    if name not in available:
        raise UserError(f"bench {name}: there is no such benchmark; there are {', '.join(['rate', *available])}")
    return subprocess.run([sys.executable, "-m", f"{BENCHMARKS}.{name}", *arguments], check=False).returncode


def _rate(checkout: Checkout, assignments: list[str], *, as_json: bool) -> None:
    import sys
    from dataclasses import asdict

    from components.checkout import IN_CHECKOUT
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
