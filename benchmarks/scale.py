"""What a run costs before its first step, and what each of its ranks holds in memory, as the data grow.

- `first_step_seconds_30000`: from the start of a training stage to its first step, on 30,000 queries about as many pictures, whose features
  are cached. It includes starting two ranks and opening the model. The larger of reward and align.
- `bytes_per_token_per_rank`: how much the summed PSS of the ranks grows from 3,000 to 30,000 queries, by token of the added trees and rank.
- `plan_exponent`, `validate_exponent`: e where user CPU time grows as n^e, of planning an epoch and a scoring pass, and of the stage validate.
- `plan_seconds_1000000`: user CPU time of those plans for a million trees.
- `decodes_of_cached_media`: how often a process opened one of the pictures in the runs above, counted by the operating system.

A time is null, and `refused` says why, when the machine is loaded or the times do not lie on a line. Memory and openings do not depend on load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import ROOT, Report, machine, parser, show, use_threads

STAGES = ("reward", "align")
RANKS = 2
MOST_LOAD = 0.5  # runnable processes a core before a measurement of seconds
LOAD_SECONDS = 180.0
LEAST_R2 = 0.99
PLAN_ROUNDS = 3
VALIDATE_PICTURES = 500


@dataclass(frozen=True)
class Sizes:
    """Numbers of queries: of both ends of memory's growth, of the two exponents, and of the one large plan."""

    small: int = 3000
    large: int = 30_000
    exponents: tuple[int, ...] = (10_000, 20_000, 40_000, 80_000)
    plan: int = 1_000_000


SMALL = Sizes(40, 120, (100, 200, 400, 800), 5000)


def exponent(counts: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """(e, r2) of the line through the logarithms of counts and seconds."""
    x, y = np.log(counts), np.log(np.maximum(seconds, 1e-3))  # trials take less than the clock shows
    slope, offset = np.polyfit(x, y, 1)
    rest = y - (slope * x + offset)
    return float(slope), float(1 - rest @ rest / ((y - y.mean()) @ (y - y.mean())))


def plan_seconds(count: int) -> float:
    """User CPU time of an epoch's plan and a scoring pass's plan over `count` trees."""
    from components.trees.planning import plan_epoch
    from components.trees.scoring import plan_scoring

    lengths = np.random.default_rng(0).gamma(4, 40, count).astype(int).clip(20, 600).tolist()
    before = os.times().user
    plan_epoch(lengths, seed=0, epoch=0, queries_per_step=16, ranks=RANKS, row_tokens=512, batch_rows=8)
    plan_scoring(lengths, 512)
    return os.times().user - before


def validate_seconds(root: Path, count: int) -> float:
    """User CPU time of the stage validate over `count` rows about VALIDATE_PICTURES pictures, in a process of its own."""
    from benchmarks._scale_data import rows

    with (root / "data/preferences/data.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(rows(count, VALIDATE_PICTURES))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.scale", "--validate", str(root)]
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise RuntimeError(f"validate failed on {count} rows:\n{completed.stderr[-2000:]}")
    return float(completed.stdout.strip().splitlines()[-1])


def validate(root: Path) -> None:
    """Run the stage validate here and print its user CPU time and that of its processes."""
    from components.checkout import Checkout
    from components.validation.stage import run

    checkout = Checkout(root)
    settings = checkout.settings()
    before = os.times()
    run(settings, checkout)
    after = os.times()
    print(after.user + after.children_user - before.user - before.children_user)


def exponents(sizes: Sizes, root: Path) -> Report:
    """Both exponents with their times, and the large plan."""
    report: Report = {}
    runs: dict[str, Callable[[int], float]] = {
        "plan": lambda count: min(plan_seconds(count) for _ in range(PLAN_ROUNDS)),
        "validate": lambda count: validate_seconds(root, count),
    }
    for name, run in runs.items():
        seconds = [run(count) for count in sizes.exponents]
        slope, r2 = exponent(sizes.exponents, seconds)
        report |= {f"{name}_exponent": slope if r2 >= LEAST_R2 else None, f"{name}_r2": r2, f"{name}_user_seconds": seconds}
    return report | {f"plan_seconds_{Sizes.plan}": plan_seconds(sizes.plan)}


def starts(sizes: Sizes, root: Path) -> Report:
    """Both trainings on few and on many queries: seconds to the first step, memory by token, openings of pictures."""
    from benchmarks import _scale_data as data
    from benchmarks._scale_ranks import Openings, start
    from components.checkout import Checkout

    checkout = Checkout(root)
    pictures = root / "data/preferences/pictures"
    measured: dict[str, dict[int, Any]] = {stage: {} for stage in STAGES}
    tokens: dict[int, int] = {}
    opened = 0
    for count in (sizes.small, sizes.large):
        data.save_queries(checkout, count, sizes.large)
        tokens[count] = data.save_tables(checkout.settings(), checkout)
        openings = Openings(pictures)
        for stage in STAGES:
            measured[stage][count] = start(checkout, stage)
        opened += openings.close()
    more = tokens[sizes.large] - tokens[sizes.small]
    grown = {stage: (runs[sizes.large].pss - runs[sizes.small].pss) / more / RANKS for stage, runs in measured.items()}
    return {
        f"first_step_seconds_{Sizes.large}": max(runs[sizes.large].seconds for runs in measured.values()),
        "bytes_per_token_per_rank": max(grown.values()),
        "decodes_of_cached_media": opened,
        "bytes_per_token_per_rank_by_stage": grown,
        "first_step_seconds": {stage: {str(count): run.seconds for count, run in runs.items()} for stage, runs in measured.items()},
        "pss_gb": {stage: {str(count): run.pss / 1e9 for count, run in runs.items()} for stage, runs in measured.items()},
        "tree_tokens": {str(count): value for count, value in tokens.items()},
    }


def load_once_low(seconds: float) -> float:
    """Runnable processes a core over the last minute, once they are few or `seconds` have passed: what ran before this still counts."""
    ends = time.monotonic() + seconds
    while (load := os.getloadavg()[0] / (os.cpu_count() or 1)) > MOST_LOAD and time.monotonic() < ends:
        time.sleep(5)
    return load


def run(sizes: Sizes, threads: int, *, any_load: bool = False) -> Report:
    """All of it. `any_load` prints seconds whatever else the machine does: they then mean nothing."""
    from benchmarks import _scale_data as data

    load = load_once_low(0 if any_load else LOAD_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data.save_base(root / "data/base")
        data.save_settings(root)
        data.save_pictures(root / "data/preferences/pictures", max(sizes.large, VALIDATE_PICTURES))
        report = {"benchmark": "scale", **exponents(sizes, root), **starts(sizes, root)}
    refused = []
    if load > MOST_LOAD and not any_load:
        refused.append(f"{load:.1f} runnable processes a core when it began: end them, or wait")
        for name in ("plan_exponent", "validate_exponent", f"plan_seconds_{Sizes.plan}", f"first_step_seconds_{Sizes.large}"):
            report[name] = None
    refused += [f"the times of {name} do not lie on a line" for name in ("plan", "validate") if report[f"{name}_r2"] < LEAST_R2]
    return {**report, "refused": "; ".join(refused) or None, "sizes": vars(sizes), "load_a_core": load, "machine": machine(threads)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser(__doc__ or "")
    options.add_argument("--queries", type=int, nargs=2, metavar=("FEW", "MANY"), help="for a trial, in place of 3,000 and 30,000")
    options.add_argument("--counts", type=int, nargs="+", help="for a trial, in place of the counts of the exponents")
    options.add_argument("--any-load", action="store_true", help="print seconds on a loaded machine too, for a trial")
    options.add_argument("--validate", type=Path, help="used by the benchmark itself")
    chosen = options.parse_args(arguments)
    if chosen.validate is not None:
        validate(chosen.validate)
        return
    use_threads(chosen.threads)
    base = SMALL if chosen.small else Sizes()
    few, many = chosen.queries or (base.small, base.large)
    sizes = Sizes(few, many, tuple(chosen.counts or base.exponents), base.plan)
    show(lambda: run(sizes, chosen.threads, any_load=chosen.any_load), chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
