"""Margins and betas of the training pairs, and their implicit reward margins after alignment."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from components.report.plots import Labels, Plot, histogram
from components.report.record import Record
from components.report.wording import number

COLUMNS = ("margin", "beta", "policy_winner", "policy_loser", "reference_winner", "reference_loser")


def pair_plots(record: Record) -> list[Plot]:
    """Histograms of margins, betas and implicit reward margins; none without the table of pairs."""
    rows = record.table("align", "pairs.parquet", *COLUMNS)
    if not rows:
        return []
    settings = record.lock_params("align")
    margins = [row["margin"] for row in rows if row["margin"] is not None]
    betas = [row["beta"] for row in rows]
    implicit = [
        row["beta"] * ((row["policy_winner"] - row["reference_winner"]) - (row["policy_loser"] - row["reference_loser"]))
        for row in rows
        if row["policy_winner"] is not None
    ]
    plots = []
    if margins:
        kind = settings.get("alignment.margins")
        words = (
            f"{len(margins):,} pairs, median {number(median(margins), 2)}; in {_below(margins)} % the reward model "
            f"disagrees with the ranks{_without(len(rows) - len(margins))}."
        )
        labels = Labels("Margins of the reward model", words, f"margin, {kind}" if kind else "margin", "pairs")
        plots.append(histogram(margins, labels, split=0))
    plots.append(_betas(betas, settings.get("alignment.beta"), settings.get("alignment.beta_weight"), record.metrics("align")))
    words = (
        f"Beta times how much more than the base the aligned policy prefers the chosen response: median "
        f"{number(median(implicit), 3)}; below 0 in {_below(implicit)} % of {len(implicit):,} training pairs."
    )
    plots.append(histogram(implicit, Labels("Implicit reward margins, trained", words, "implicit reward margin", "pairs"), split=0))
    return plots


def _betas(betas: list[float], floor: float | None, weight: float | None, metrics: Mapping[str, Any]) -> Plot:
    bounds, marks = None, []
    if floor is not None and weight is not None and weight > 0:
        cap = floor * (1 + weight)
        bounds, marks = (min(floor, *betas), max(cap, *betas)), [(floor, "floor"), (cap, "cap")]
    words = f"From {number(min(betas), 3)} to {number(max(betas), 3)}, mean {number(sum(betas) / len(betas), 3)}"
    shares = [(metrics.get(f"beta.share_at_{end}"), end) for end in ("floor", "cap")]
    words += "".join(f"; {number(100 * share)} % close to the {end}" for share, end in shares if share is not None) + "."
    return histogram(betas, Labels("Beta of each pair", words, "beta", "pairs"), bounds=bounds, marks=marks)


def _below(values: list[float]) -> str:
    return number(100 * sum(value < 0 for value in values) / len(values))


def _without(missing: int) -> str:
    return f"; {missing:,} pairs have no margin" if missing else ""
