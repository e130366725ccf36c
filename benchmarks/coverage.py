"""How often the intervals of evaluation and gate cover the truth, and how often a rule of the gate errs, on simulated rows in clusters.

    python -m benchmarks.coverage --json [--simulations N] [--generator FILE]

Each cell is a kind of held-out data: rows, groups, their sizes, the rate of an event, one or more ways to share, a proportion, a difference or a
ratio. A generator (benchmarks/coverage_generator.py describes the form; exchange it with `--generator`) draws the rows and the models' events.
The intervals come from `share_bounds` and `difference_bounds` of components/statistics.py, which evaluation and gate use, the error of a look from
components/registry/reuse.py, and the bounds of the rules from mlflow/registry.yaml.

A cell with a judge draws verdicts by its sensitivity and specificity, and an error sheet of so many labels; its intervals are corrected by that
sheet, as the gate corrects (components/evaluation/correction.py). A sheet below sensitivity + specificity 1.2 gives no interval: it covers, and
passes no model.

- `coverage_min`: the least share of simulations whose interval contains the truth, over all cells; `coverage_max` the largest, over the cells with
  at least 10 events and 10 rows without one, and 30 groups, expected.
- `type_1_max`: the largest share of simulations in which a rule passes a model that lies on the rule's bound, in the first look.
- `false_promotion_30_looks`: how often 30 challengers on one held-out file promote falsely: equal ones by the rule `conversation`, less safe ones by
  `unsafe`; the larger.
- `power`: how often an equal challenger passes the rule `unsafe`, by look, and a better one the rule `conversation`; `unsafe, judge` by the error
  that the shipped sheet of the bundled ground truth has, `unsafe, judge .97` by a judge with sensitivity and specificity .97.

Bounds here: coverage_min at least .94, coverage_max at most .98, type_1_max and false_promotion_30_looks at most .06, power.unsafe at least .8.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import ROOT, Report, machine
from components.evaluation.correction import Part, corrected_end, exact_bounds, pooled
from components.evaluation.error_sheets import LEAST_INFORMATION
from components.registry.policy import POLICY_FILE, PolicyRules, load_policy
from components.registry.reuse import NthLook
from components.statistics import Floats, Groups, difference_bounds, share_bounds

SIMULATIONS, AT_ONCE = 5000, 1000
SEED = 20251129
CONFIDENCE = 0.95
LOOK_COUNT = 30
FEWEST_EVENTS, FEWEST_GROUPS = 10, 30
BOUNDS = {"coverage_min": 0.94, "coverage_max": 0.98, "type_1_max": 0.06, "false_promotion_30_looks": 0.06}
Kind = Literal["proportion", "difference", "ratio", "ratio difference"]


class Judge(NamedTuple):
    """The true sensitivity and specificity of a judge in the cell's event, and its labels: with the event, and without it."""

    sensitivity: float
    specificity: float
    labels: tuple[int, int]


@dataclass(frozen=True)
class Cell:
    """A kind of held-out rows; `rates` has a rate a model, `pairs` is the most cases of a row."""

    kind: Kind
    rows: int
    groups: tuple[int, ...]
    sizes: Literal["equal", "unequal"]
    rates: tuple[float, ...]
    correlation: float
    shared: float = 0.5
    pairs: int = 1
    judge: Judge | None = None

    @property
    def counts_for_max(self) -> bool:
        """Whether enough events, rows without one, and groups are expected."""
        if self.judge is not None:
            return False  # a sheet of few labels has exact bounds, which cover too often
        events = self.rows * min(min(rate, 1 - rate) for rate in self.rates)
        return events >= FEWEST_EVENTS and min(self.groups) >= FEWEST_GROUPS


Design = tuple[int, tuple[int, ...], Literal["equal", "unequal"]]
# rows, groups: one way to share, two, and the harmful requests and the conversation of the bundled held-out rows
DESIGNS: tuple[Design, ...] = (
    (100, (20,), "equal"),
    (300, (30,), "equal"),
    (300, (30,), "unequal"),
    (1000, (100,), "unequal"),
    (400, (40, 20), "unequal"),
    (265, (227, 87, 40), "unequal"),
    (530, (333, 94), "unequal"),
)
HARMFUL, TALK, ALL = DESIGNS[5], DESIGNS[6], (1000, (500, 160), "unequal")
PERFECT = Judge(1.0, 1.0, (50, 40))  # no fault on as many labels as the sheet of the bundled ground truth has of unsafe and safe answers
JUDGES = (PERFECT, Judge(0.97, 0.97, (50, 40)), Judge(0.9, 0.85, (115, 115)), Judge(0.98, 0.7, (50, 40)), Judge(0.75, 0.7, (100, 100)))
CORRELATIONS = (0.0, 0.1, 0.3)
RATES = (0.005, 0.02, 0.05, 0.1, 0.3, 0.5, 0.95)
PAIRS_OF_RATES = ((0.05, 0.05), (0.1, 0.05), (0.3, 0.3), (0.6, 0.5), (0.95, 0.5), (0.95, 0.95))


def cells() -> Iterator[Cell]:
    """All cells of coverage."""
    for (rows, groups, sizes), correlation in product(DESIGNS, CORRELATIONS):
        for rate in RATES:
            yield Cell("proportion", rows, groups, sizes, (rate,), correlation)
        for rates in PAIRS_OF_RATES:
            yield Cell("difference", rows, groups, sizes, rates, correlation)
        for rate in (0.6, 0.9):
            yield Cell("ratio", rows, groups, sizes, (rate,), correlation, pairs=4)
        yield Cell("ratio difference", rows, groups, sizes, (0.8, 0.75), correlation, pairs=4)


def judged_cells() -> Iterator[Cell]:
    """The cells of coverage in which a judge errs."""
    for judge, correlation in product(JUDGES, (0.0, 0.1)):
        for rate in (0.02, 0.1, 0.5, 0.95):
            yield Cell("proportion", *HARMFUL, (rate,), correlation, judge=judge)
        for rates in ((0.05, 0.05), (0.1, 0.05), (0.95, 0.5)):
            yield Cell("difference", *HARMFUL, rates, correlation, judge=judge)


Draw = Callable[[Cell, np.random.Generator, int], Any]
Outcomes = NDArray[np.bool_]
Counted = Callable[[Floats, Floats, Groups, "Sheet | None"], Outcomes]  # events [models, S, N], cases, groups, a sheet a simulation, to [S]


class Simulation:
    """Draws cells with a generator, in parts that bound the memory; the same seed gives the same numbers."""

    def __init__(self, draw: Draw, simulations: int) -> None:
        self._draw = draw
        self._simulations = simulations

    def share(self, cell: Cell, outcome: Counted) -> float:
        """The share of simulations in which `outcome` holds. Each part draws rows of its own."""
        random = np.random.default_rng([SEED, *json.dumps(asdict(cell)).encode()])
        hits = 0.0
        for start in range(0, self._simulations, AT_ONCE):
            drawn = self._draw(cell, random, min(AT_ONCE, self._simulations - start))
            names = [{name: str(codes[row]) for name, codes in drawn.clusters.items()} for row in range(cell.rows)]
            events, sheet = (drawn.events, None) if cell.judge is None else judged(drawn.events, cell.judge, random)
            hits += float(outcome(events, drawn.cases, Groups(names), sheet).sum())
        return hits / self._simulations


class Sheet(NamedTuple):
    """Of each simulation: the labels with the event that the judge finds, and those without it that it leaves; and all labels of both."""

    hits: NDArray[np.int64]
    left: NDArray[np.int64]
    labels: tuple[int, int]


def judged(events: Floats, judge: Judge, random: np.random.Generator) -> tuple[Floats, Sheet]:
    """The verdicts of a judge on the events, and an error sheet of it."""
    chance = random.random(events.shape)
    verdicts = np.where(events > 0, chance < judge.sensitivity, chance < 1 - judge.specificity).astype(np.float64)
    hits = random.binomial(judge.labels[0], judge.sensitivity, events.shape[1])
    left = random.binomial(judge.labels[1], judge.specificity, events.shape[1])
    return verdicts, Sheet(hits, left, judge.labels)


def bounds_of(cell: Cell, events: Floats, cases: Floats, groups: Groups, sheet: Sheet | None, tail: float) -> tuple[Floats, Floats]:
    """(low, high) of the cell's rate, or of the first model's less the second's."""
    paired = cell.kind not in ("proportion", "ratio")
    if paired:
        value, low, high, _, _ = difference_bounds(events[0] - events[1], cases, groups, tail)
    else:
        value, low, high = share_bounds(events[0], cases, groups, tail)
    if sheet is None:
        return low, high
    errors = exact_bounds(sheet.hits, sheet.labels[0], tail), exact_bounds(sheet.left, sheet.labels[1], tail)
    if not paired:
        errors = pooled(errors, ((sheet.hits, sheet.labels[0]), (sheet.left, sheet.labels[1])), (value * cell.rows, cell.rows))
    information = np.maximum(errors[0].value + errors[1].value - 1, 1e-9)
    offset = 0.0 if paired else errors[1].value - 1
    shares = [events[0].mean(axis=1), events[1].mean(axis=1)] if paired else [value]
    parts = [Part(0, weight, share) for weight, share in zip((1, -1), shares, strict=False)]
    ends = [corrected_end(parts, [errors], (end + offset) / information, sign) for end, sign in ((low, -1), (high, 1))]
    usable = sheet.hits / sheet.labels[0] + sheet.left / sheet.labels[1] >= LEAST_INFORMATION
    least = -1.0 if paired else 0.0
    return np.where(usable, np.clip(ends[0], least, 1), least), np.where(usable, np.clip(ends[1], least, 1), 1.0)


def coverage(simulation: Simulation, cell: Cell) -> float:
    """The share of simulations whose two-sided interval contains the truth."""
    true_value = cell.rates[0] - cell.rates[1] if len(cell.rates) > 1 else cell.rates[0]

    def covers(events: Floats, cases: Floats, groups: Groups, sheet: Sheet | None) -> Outcomes:
        low, high = bounds_of(cell, events, cases, groups, sheet, (1 - CONFIDENCE) / 2)
        return (low <= true_value) & (true_value <= high)

    return simulation.share(cell, covers)


def above(cell: Cell, bound: float, tail: float) -> Counted:
    """Whether the lower end is above `bound`."""
    return lambda events, cases, groups, sheet: bounds_of(cell, events, cases, groups, sheet, tail)[0] > bound


def within(cell: Cell, bound: float, tail: float) -> Counted:
    """Whether the upper end is at most `bound`."""
    return lambda events, cases, groups, sheet: bounds_of(cell, events, cases, groups, sheet, tail)[1] <= bound


def type_1(simulation: Simulation, total: float, rules: PolicyRules) -> dict[str, float]:
    """How often each rule passes, or for the alarm `fall` refuses, a model on its bound, in the first look; the largest over correlations."""
    tail = NthLook(1, total).tail
    errors: dict[str, float] = {}
    for correlation in CORRELATIONS:
        for name, cell, outcome in _rules_on_their_bounds(correlation, rules, total, tail):
            error = simulation.share(cell, outcome)
            if name == "categories.fall":
                error = 1 - (1 - error) ** 5  # five categories may raise it
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


def _rules_on_their_bounds(correlation: float, rules: PolicyRules, total: float, tail: float) -> Iterator[tuple[str, Cell, Counted]]:
    for rate in (0.5, 0.95):
        cell = Cell("difference", *TALK, (rate, rate), correlation)
        yield "conversation", cell, above(cell, 0, tail)
    margin = rules.unsafe.margin
    for rate in (0.01, 0.05):
        cell = Cell("difference", *HARMFUL, (rate + margin, rate), correlation)
        yield "unsafe", cell, within(cell, margin, tail)
    shares: dict[str, Design] = {
        "unsafe_ceiling": HARMFUL,
        "over_refusal": HARMFUL,
        "hallucination": (230, (171, 42), "unequal"),
        "degenerate": ALL,
    }
    for name, design in shares.items():
        most = getattr(rules, name).most
        cell = Cell("proportion", *design, (most,), correlation)
        yield name, cell, within(cell, most, tail)
    for judge in JUDGES:
        cell = Cell("difference", *HARMFUL, (0.01 + margin, 0.01), correlation, judge=judge)
        yield "unsafe, judged", cell, within(cell, margin, tail)
        cell = Cell("proportion", *HARMFUL, (rules.unsafe_ceiling.most,), correlation, judge=judge)
        yield "unsafe_ceiling, judged", cell, within(cell, rules.unsafe_ceiling.most, tail)
        cell = Cell("difference", *TALK, (0.9, 0.9), correlation, judge=judge)
        yield "conversation, judged", cell, above(cell, 0, tail)
        cell = Cell("proportion", 110, (99, 46), "unequal", (0.5,), correlation, judge=judge)
        yield "categories.floor, judged", cell, above(cell, 0.5, tail)
    for name, floor in sorted({(f"categories.floor {floor:g}", floor) for floor in rules.categories.floors.values()}):
        cell = Cell("proportion", 110, (99, 46), "unequal", (floor,), correlation)
        yield name, cell, above(cell, floor, tail)
    fall = rules.categories.fall
    if fall is not None:
        cell = Cell("difference", 110, (99, 46), "unequal", (0.6, 0.6 + fall), correlation)
        yield "categories.fall", cell, within(cell, -fall, total / 5)
    for name, rate in (("preference_accuracy", 0.5), ("acc", 0.6), ("acc_plus", 0.4)):
        cell = Cell("ratio", *ALL, (rate,), correlation, pairs=1 if name == "acc_plus" else 4)
        yield name, cell, above(cell, rate, tail)
    cell = Cell("ratio difference", *ALL, (0.8, 0.8), correlation, pairs=4)
    yield "better and ranks", cell, above(cell, 0, tail)


def false_promotions(simulation: Simulation, total: float, rules: PolicyRules) -> dict[str, float]:
    """How often one of 30 challengers passes: equal to the champion by `conversation`, less safe by the margin by `unsafe`."""
    margin = rules.unsafe.margin
    equal = Cell("difference", *TALK, (0.9,) * (LOOK_COUNT + 1), 0.1)
    unsafe = Cell("difference", *HARMFUL, (*(0.03 + margin,) * LOOK_COUNT, 0.03), 0.1)

    def any_look(passes: Callable[[Floats, Floats], Outcomes]) -> Counted:
        def outcome(events: Floats, cases: Floats, groups: Groups, sheet: Sheet | None) -> Outcomes:  # noqa: ARG001 -- no judge
            promoted = np.zeros(events.shape[1], dtype=bool)
            for number in range(LOOK_COUNT):
                _, low, high, _, _ = difference_bounds(events[number] - events[-1], cases, groups, NthLook(number + 1, total).tail)
                promoted |= passes(low, high)
            return promoted

        return outcome

    return {
        "conversation": simulation.share(equal, any_look(lambda low, _: low > 0)),
        "unsafe": simulation.share(unsafe, any_look(lambda _, high: high <= margin)),
    }


def power(simulation: Simulation, total: float, rules: PolicyRules) -> dict[str, float]:
    """How often an equal challenger with 2.6 % unsafe answers passes `unsafe`, by look; and a challenger with more right answers `conversation`."""
    powers = {}
    safe = Cell("difference", *HARMFUL, (0.026, 0.026), 0.1)
    for number in (1, 2, 3, 5, 10, 30):
        powers[f"unsafe, look {number}"] = simulation.share(safe, within(safe, rules.unsafe.margin, NthLook(number, total).tail))
    for name, judge in (("", PERFECT), (" .97", JUDGES[1])):
        judged_safe = replace(safe, judge=judge)
        powers[f"unsafe, judge{name}, look 1"] = simulation.share(
            judged_safe, within(judged_safe, rules.unsafe.margin, NthLook(1, total).tail)
        )
    for gain, number in product((0.03, 0.05, 0.1), (1, 10)):
        cell = Cell("difference", *TALK, (0.85 + gain, 0.85), 0.1)
        powers[f"conversation, {100 * gain:g} points better, look {number}"] = simulation.share(
            cell, above(cell, 0, NthLook(number, total).tail)
        )
    return powers


def read_generator(path: Path) -> Draw:
    """The function `draw` of a generator's file."""
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)  # noqa: S102 -- the caller names the file to run
    draw: Draw = names["draw"]
    return draw


def measure(draw: Draw, simulations: int) -> Report:
    """All keys; see the module."""
    policy = load_policy(ROOT / POLICY_FILE)
    simulation, total = Simulation(draw, simulations), 1 - policy.confidence
    measured = [(coverage(simulation, cell), cell) for cell in (*cells(), *judged_cells())]
    enough = [pair for pair in measured if pair[1].counts_for_max]
    lowest, highest = min(measured, key=lambda pair: pair[0]), max(enough, key=lambda pair: pair[0])
    errors, promotions = type_1(simulation, total, policy.policy), false_promotions(simulation, total, policy.policy)
    powers = power(simulation, total, policy.policy)
    report: Report = {
        "simulations": simulations,
        "cells": len(measured),
        "coverage_min": lowest[0],
        "coverage_min_cell": asdict(lowest[1]),
        "coverage_max": highest[0],
        "coverage_max_cell": asdict(highest[1]),
        "cells_below": sum(share < BOUNDS["coverage_min"] for share, _ in measured),
        "cells_above": sum(share > BOUNDS["coverage_max"] for share, _ in enough),
        "type_1_max": max(errors.values()),
        "type_1": errors,
        "false_promotion_30_looks": max(promotions.values()),
        "false_promotion": promotions,
        "power": {"unsafe": powers["unsafe, look 1"], **powers},
        "worst": [{"coverage": share, **asdict(cell)} for share, cell in sorted(measured, key=lambda pair: pair[0])[:8]],
        "machine": machine(1),
    }
    return report


def main(arguments: list[str]) -> Report:
    """Parse, measure, print."""
    options = ArgumentParser(prog="python -m benchmarks.coverage", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--json", action="store_true", help="print JSON alone")
    options.add_argument("--simulations", type=int, default=SIMULATIONS, help=f"of each cell ({SIMULATIONS})")
    options.add_argument("--generator", type=Path, default=ROOT / "benchmarks/coverage_generator.py", help="a file with draw()")
    chosen = options.parse_args(arguments)
    report = measure(read_generator(chosen.generator), chosen.simulations)
    if chosen.json:
        print(json.dumps(report, indent=2))
    else:
        for key in (*BOUNDS, "power"):
            print(f"{key}: {json.dumps(report[key])}")
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
