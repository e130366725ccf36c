"""The picture of margins and betas."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.alignment.pairs import PairTable
from components.config import AlignmentSettings


def plot_betas(path: Path, pairs: PairTable, settings: AlignmentSettings) -> None:
    """Histograms of scaled margins and of betas, side by side, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    left.hist(pairs.margin[~np.isnan(pairs.margin)], bins=40, color="#4878a8")
    left.axvline(0, color="black", linewidth=0.8)
    scale = f"{pairs.scale.kind}, divided by {pairs.scale.divisor:.3g}"
    left.set(xlabel=f"margin ({scale})", ylabel="pairs", title="Margins of the reward model")
    right.hist(pairs.beta, bins=40, color="#b5651d")
    right.set(xlabel="beta", ylabel="pairs", title=f"Beta, {settings.beta_schedule}, w {settings.beta_weight:g}, k {settings.beta_scale:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
