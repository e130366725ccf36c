"""The picture of what the schedule does with the margins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.alignment.betas import drs_beta
from components.alignment.pairs import PairTable

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings

MARGINS, BETAS = "#4878a8", "#b5651d"


def plot_betas(path: Path, pairs: PairTable, settings: AlignmentSettings, steps: Sequence[dict[str, float]] = ()) -> None:
    """Histograms of scaled margins and of betas, and the schedule's curve with the pairs on it, side by side, as PNG.

    `steps` are the training's curves: what is shown of `beta_dpo`, whose beta is a step's. Under `madpo` the weight stands for beta.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.2), constrained_layout=True)
    left.hist(pairs.margin[~np.isnan(pairs.margin)], bins=40, color=MARGINS)
    left.axvline(0, color="black", linewidth=0.8)
    scale = f"{pairs.scale.kind}, divided by {pairs.scale.divisor:.3g}"
    left.set(xlabel=f"margin ({scale})", ylabel="pairs", title="Margins of the reward model")
    if settings.beta_schedule == "beta_dpo":
        _plot_steps(middle, right, steps)
    else:
        _plot_schedule(middle, right, pairs, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_steps(middle: Any, right: Any, steps: Sequence[dict[str, float]]) -> None:
    numbers = [step["step"] for step in steps]
    middle.hist([step["beta/mean"] for step in steps], bins=40, color=BETAS)
    middle.set(xlabel="beta", ylabel="steps", title="Beta, beta_dpo")
    right.plot(numbers, [step["beta/implicit_margin"] for step in steps], color=MARGINS, linewidth=0.8, label="step's margin")
    right.plot(numbers, [step["beta/running_margin"] for step in steps], color="black", linewidth=1.0, label="running margin")
    right.set(xlabel="step", ylabel="implicit margin in nats", title="What beta follows")
    right.legend(frameon=False)


def _plot_schedule(middle: Any, right: Any, pairs: PairTable, settings: AlignmentSettings) -> None:
    weighted = settings.beta_schedule == "madpo"
    values, name = (pairs.weight, "weight") if weighted else (pairs.beta, "beta")
    middle.hist(values, bins=40, color=BETAS)
    settings_used = {
        "drs": f", w {settings.beta_weight:g}, k {settings.beta_scale:g}",
        "madpo": f", k {settings.beta_scale:g}",
    }.get(settings.beta_schedule, "")
    middle.set(xlabel=name, ylabel="pairs", title=f"{name.capitalize()}, {settings.beta_schedule}{settings_used}")
    scored = ~np.isnan(pairs.margin)
    if settings.beta_schedule == "drs" and scored.any():
        margins = np.linspace(min(0.0, float(pairs.margin[scored].min())), max(0.0, float(pairs.margin[scored].max())), 200)
        right.plot(margins, drs_beta(margins, settings.beta, settings.beta_weight, settings.beta_scale), color="black", linewidth=1.0)
    right.scatter(pairs.margin[scored], values[scored], s=8, alpha=0.4, color=BETAS, linewidths=0)
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="margin", ylabel=name, title=f"{name.capitalize()} over margin")
