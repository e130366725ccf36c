"""Plots of an evaluation. They are kept with the run's record and are no out: a picture's bytes depend on the library that draws it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.preferences.record import CATEGORIES

COLOURS = {"base": "#9aa5b1", "aligned": "#1f6feb"}


def plot_accuracy(path: Path, metrics: Mapping[str, float | int | None]) -> None:
    """Accuracy by category, base against aligned, with intervals. Categories that can't be judged are left out."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [c for c in CATEGORIES if all(metrics.get(f"policy.{policy}.accuracy.{c}") is not None for policy in COLOURS)]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for offset, (policy, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
        keys = [f"policy.{policy}.accuracy.{category}" for category in shown]
        values = [_number(metrics, key) for key in keys]
        below = [value - _number(metrics, f"{key}_low") for key, value in zip(keys, values, strict=True)]
        above = [_number(metrics, f"{key}_high") - value for key, value in zip(keys, values, strict=True)]
        positions = [position + offset for position in range(len(shown))]
        axes.bar(positions, values, 0.38, color=colour, label=policy, yerr=[below, above], capsize=3, ecolor="#333333")
    labels = [f"{category}\n(n={metrics[f'policy.aligned.counts.{category}']})" for category in shown]
    axes.set_xticks(range(len(shown)), labels)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("share right (safety: safe or answered)")
    axes.set_title("Held-out accuracy by category")
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _number(metrics: Mapping[str, float | int | None], key: str) -> float:
    value = metrics[key]
    assert value is not None
    return float(value)
