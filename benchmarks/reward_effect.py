"""Do critiques help the reward model? Arms that differ in what critiques it learns from, over seeds.

- docs/findings.md says what is compared, and said so before anything was run. `benchmarks/_reward_measures.py` says what is measured.
- Each row (arm, seed) is a training of `mmalign run --only reward --set` in a checkout with the whole bundled data. Rows that are in `--rows`
  are not run again, so that a killed study goes on where it was.
- The arm `expanded` needs the expansions of `mmalign data expand`, which an endpoint writes: it runs only where `--expanded` names that file.

    python -m benchmarks.reward_effect --json                      # none, annotated and mixed, five seeds
    python -m benchmarks.reward_effect --arms none,annotated --seeds 2
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks._bundled import fetch_data
from benchmarks._effect_arms import make_checkout, run
from benchmarks._effect_rows import Row, run_missing
from benchmarks._effect_statistics import paired, spread
from benchmarks._reward_measures import Measured
from benchmarks._slice import Slice
from components.checkout import Checkout
from components.storage.copies import workspace_of
from tests.checkout import ROOT

FOLDER = ROOT / ".mmalign/reward_effect"
ROWS = ROOT / "benchmarks/rows/reward_effect.jsonl"
ARMS = ("none", "annotated", "mixed")
EXPANDED = "expanded"
CONTROL = "none"
SEEDS = 5


def study(folder: Path, rows: Path, names: list[str], seeds: int, expanded: Path | None = None) -> list[Row]:
    """Run what is missing of the study, seed by seed, so that an early end leaves all arms equally far; all rows that were asked for."""

    def trained(row: Row) -> Row:
        made = make_checkout(folder, "clean")
        if expanded is not None:
            shutil.copy(expanded, made.root / "data/preferences/expanded.jsonl")
        return dict(train(made, row["arm"], row["seed"]))

    return run_missing("reward_effect", rows, [{"arm": name, "seed": seed} for seed in range(seeds) for name in names], trained)


def train(made: Slice, name: str, seed: int) -> dict[str, float | None]:
    """Train the reward model of an arm and measure it."""
    assignments = [f"reward.critique_source={name}", f"training.seed={seed}"]
    run(
        made,
        *(word for assignment in assignments for word in ("--set", assignment)),
        "--only",
        "validate",
        "--only",
        "reward",
        "--bundled-rows",
    )
    copy = workspace_of(Checkout(made.root), assignments)
    measured = Measured(copy.settings(), copy, copy.reward_model).measures(made.root.parent / "answers.json")
    shutil.rmtree(copy.root)  # its results lie in DVC's cache
    return measured


def summary(rows: list[Row]) -> dict[str, Any]:
    """By measure: every arm's spread, and its difference from the arm without critiques, paired by seed."""
    report: dict[str, Any] = {}
    for measure in (key for key in rows[0] if key not in {"arm", "seed"}):
        by_arm: dict[str, dict[int, float]] = {}
        for row in rows:
            if row[measure] is not None:
                by_arm.setdefault(row["arm"], {})[row["seed"]] = row[measure]
        report[measure] = {
            "arms": {arm: spread(list(values.values())) for arm, values in by_arm.items()},
            f"minus_{CONTROL}": {
                arm: paired(values, by_arm[CONTROL]) for arm, values in by_arm.items() if arm != CONTROL and CONTROL in by_arm
            },
        }
    return report


def main() -> None:
    """Run the study and print its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", help=f"names, by comma (default: {','.join(ARMS)})")
    parser.add_argument("--expanded", type=Path, help="the file of `mmalign data expand`, for the arm expanded")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the study's checkout lies")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the study's rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.arms.split(",") if options.arms else [*ARMS, *([EXPANDED] if options.expanded else [])]
    if unknown := set(names) - {*ARMS, *([EXPANDED] if options.expanded else [])}:
        parser.error(f"unknown arms {', '.join(sorted(unknown))}; {EXPANDED} needs --expanded")
    fetch_data()
    report = summary(study(options.folder, options.rows, names, options.seeds, options.expanded))
    print(json.dumps(report, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
