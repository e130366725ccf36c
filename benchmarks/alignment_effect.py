"""Does MM-DPO's dynamic beta help? Arms that differ in nothing but their betas, over seeds, on clean and on partly reversed rankings.

- docs/findings.md says what is compared, and said so before anything was run. Primary: MM-DPO minus DPO at the same mean beta, paired by seed,
  in held-out preference accuracy, and in conversation where a quarter of the rankings is reversed.
- Each row (data, arm, seed) is a run of `mmalign run --set` in a checkout with the whole bundled data. Rows that are in `--rows` are not run
  again, so that a killed study goes on where it was.
- `--grid` trains nothing: it walks w, k and the scale of margins on the cosine of the gradient with the clean one.

    python -m benchmarks.alignment_effect --quick --json     # three arms, five seeds, reversed rankings
    python -m benchmarks.alignment_effect --seeds 10 --json  # all arms, clean and reversed
    python -m benchmarks.alignment_effect --grid --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks._bundled import fetch_data
from benchmarks._effect_arms import CONTROL, DATA, ENDPOINTS, QUICK, arms, make_checkout, margins_of, run, train
from benchmarks._effect_rows import Row, run_missing
from benchmarks._effect_statistics import paired, spread
from tests.checkout import ROOT

FOLDER = ROOT / ".mmalign/alignment_effect"
ROWS = ROOT / "benchmarks/rows/alignment_effect.jsonl"
QUICK_SEEDS = 5


def study(folder: Path, rows: Path, data: list[str], names: list[str], seeds: int) -> list[Row]:
    """Run what is missing of the study, seed by seed, so that an early end leaves all arms equally far; all rows that were asked for."""
    wanted = [{"data": kind, "arm": name, "seed": seed} for seed in range(seeds) for kind in data for name in names]

    def trained(row: Row) -> Row:
        made = make_checkout(folder, row["data"])
        if not (made.root / "artifacts/align/pairs.parquet").is_file():
            print(f"alignment_effect: the reward model of the {row['data']} rankings", file=sys.stderr, flush=True)
            run(made, "--accept-data", "--bundled-rows")
        overrides = arms(margins_of(made), made.root / "params.yaml")[row["arm"]]
        return {"overrides": overrides, **train(made, overrides, row["seed"])}

    return run_missing("alignment_effect", rows, wanted, trained)


def summary(rows: list[Row]) -> dict[str, Any]:
    """By data and endpoint: every arm's spread, and its difference from DPO at its mean beta."""
    report: dict[str, Any] = {}
    for data in sorted({row["data"] for row in rows}):
        for endpoint in ENDPOINTS:
            by_arm: dict[str, dict[int, float]] = {}
            for row in rows:
                if row["data"] == data:
                    by_arm.setdefault(row["arm"], {})[row["seed"]] = row[endpoint]
            report.setdefault(data, {})[endpoint] = {
                "arms": {arm: spread(list(values.values())) for arm, values in by_arm.items()},
                "minus_dpo": {arm: paired(values, by_arm[CONTROL[arm]]) for arm, values in by_arm.items() if CONTROL.get(arm) in by_arm},
            }
    return report


def primary(report: dict[str, Any]) -> dict[str, Any]:
    """The two comparisons that docs/findings.md names."""
    compared = {}
    for name, data, endpoint in (
        ("preference_accuracy_clean", "clean", "preference_accuracy"),
        ("preference_accuracy_reversed", "reversed", "preference_accuracy"),
        ("conversation_reversed", "reversed", "conversation"),
    ):
        comparison = report.get(data, {}).get(endpoint, {}).get("minus_dpo", {}).get("mm_dpo")
        if comparison is not None:
            compared[name] = comparison
    return compared


def main() -> None:
    """Run the study or the grid, and print its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three arms, five seeds, reversed rankings")
    parser.add_argument("--seeds", type=int, default=QUICK_SEEDS)
    parser.add_argument("--arms", help="names, by comma (default: all)")
    parser.add_argument("--data", help="clean, reversed or both by comma (default: both)")
    parser.add_argument("--grid", action="store_true", help="cosines of gradients, no training")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the study's checkouts lie")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the study's rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    fetch_data()
    if options.grid:
        from benchmarks._effect_gradient import grid

        made = make_checkout(options.folder, "reversed")
        if not (made.root / "artifacts/align/pairs.parquet").is_file():
            run(made, "--accept-data", "--bundled-rows")
        report: dict[str, Any] = {"grid": grid(made.root)}
    else:
        names = list(QUICK) if options.quick else list(CONTROL | dict.fromkeys(CONTROL.values()))
        chosen = options.arms.split(",") if options.arms else names
        data = options.data.split(",") if options.data else ["reversed"] if options.quick else list(DATA)
        seeds = QUICK_SEEDS if options.quick else options.seeds
        report = summary(study(options.folder, options.rows, data, chosen, seeds))
        report = {"primary": primary(report), "data": report}
    print(json.dumps(report, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
