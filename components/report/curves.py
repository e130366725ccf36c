"""Training curves of the reward model and of the policy, from their runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from pathlib import Path
from tempfile import TemporaryDirectory

from components.report.plots import Labels, Line, Plot, curves
from components.report.record import Record
from components.report.wording import number

FILE = "curves.jsonl"
POINTS = 240  # a curve; a longer one is shown as means over neighboring steps
SMOOTHED_FROM = 60  # points a curve, from which on the plot adds a moving average
CHANCE = (log(2), "chance (log 2)")


@dataclass(frozen=True)
class Wanted:
    """A plot of logged metrics: (metric, name) for each line."""

    title: str
    metrics: tuple[tuple[str, str], ...]
    y_label: str
    reference: tuple[float, str] | None = None
    bounds: tuple[float, float] | None = None


WANTED: Mapping[str, tuple[Wanted, ...]] = {
    "reward": (
        Wanted("Loss on pairs", (("loss/pair", ""),), "loss a pair", CHANCE),
        Wanted("Pairs ordered as ranked", (("accuracy", ""),), "share", (0.5, "chance"), (0, 1)),
        Wanted("Loss on critiques", (("loss/critique", ""),), "loss a token"),
    ),
    "align": (
        Wanted("Preference loss", (("loss/preference", ""),), "loss a pair", CHANCE),
        Wanted("Pairs preferred as ranked", (("rewards/accuracy", ""),), "share", (0.5, "chance"), (0, 1)),
        Wanted("Implicit rewards", (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")), "reward", (0, "base")),
    ),
}


@dataclass(frozen=True)
class TrainingCurves:
    """The plots of one stage, or a sentence on why they are missing."""

    stage: str
    title: str
    plots: list[Plot]
    missing: str | None


def training_curves(record: Record) -> list[TrainingCurves]:
    """Curves of both training stages."""
    stages = []
    for stage, title in (("reward", "Reward model"), ("align", "Policy")):
        logged, missing = _fetch(record, stage)
        plots = [plot for wanted in WANTED[stage] if (plot := _plot(logged, wanted)) is not None]
        stages.append(TrainingCurves(stage, title, plots, missing or (None if plots else f"Stage {stage} logged no curves.")))
    return stages


def _fetch(record: Record, stage: str) -> tuple[list[dict[str, float]], str | None]:
    """The steps that a stage logged, or a sentence on why they are missing."""
    if not record.finished(stage):
        return [], f"Stage {stage} did not finish in this run, so it has no curves."
    run_id = record.run(stage).get("mlflow_run_id")
    if not isinstance(run_id, str):
        return [], f"Stage {stage} left no id of its MLflow run, so its curves are missing."
    from components.tracking.recorder import PENDING

    if run_id.startswith(PENDING):
        return [], f"The tracking store was away while stage {stage} ran: the next run sends its curves."
    if not os.environ.get("MLFLOW_TRACKING_URI") and not record.checkout.mlflow_database.is_file():
        return [], f"This checkout has no tracking store (mlflow.db), so the curves of stage {stage} are missing."
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one bar a file would hide the command's output
    from components.tracking.store import connect

    try:
        client, _ = connect(record.checkout)
        with TemporaryDirectory() as folder:  # mlflow's own choice is one that it never removes
            text = Path(client.download_artifacts(run_id, FILE, folder)).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()], None
    except Exception as error:  # noqa: BLE001 -- a store fails in many ways, and the page renders without it
        return [], f"The tracking store failed to return the curves of run {run_id} ({type(error).__name__}), so they are missing."


def _plot(logged: Sequence[Mapping[str, float]], wanted: Wanted) -> Plot | None:
    series = []
    for (metric, name), style in zip(wanted.metrics, ("line-a", "line-b"), strict=False):
        points = [(step["step"], step[metric]) for step in logged if _is_number(step.get(metric))]
        if len(points) > 1:
            series.append((name, style, points))
    if not series:
        return None
    lines, words = [], []
    for name, style, points in series:
        shown = thin(points)
        steps, values = [step for step, _ in shown], [value for _, value in shown]
        if len(shown) >= SMOOTHED_FROM:
            lines.append(Line("", f"{style} faint", steps, values))
            values = smooth(values)
        lines.append(Line(name, style, steps, values))
        words.append(f"{name + ' ' if name else ''}from {number(points[0][1], 3)} to {number(points[-1][1], 3)}")
    sentence = f"{wanted.title} over {len(series[0][2]):,} steps: {'; '.join(words)}."
    labels = Labels(wanted.title, sentence, "optimiser step", wanted.y_label)
    return curves(lines, labels, reference=wanted.reference, bounds=wanted.bounds)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points: means over neighboring points, so that every stretch of a long curve counts."""
    if len(points) <= POINTS:
        return list(points)
    bounds = [round(number * len(points) / POINTS) for number in range(POINTS + 1)]
    pieces = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(step for step, _ in piece) / len(piece), sum(value for _, value in piece) / len(piece)) for piece in pieces]


def smooth(values: Sequence[float]) -> list[float]:
    """The exponential moving average over a twentieth of the curve, without the bias towards its first value."""
    decay = 1 - 20 / max(len(values), 40)
    average, weight, smoothed = 0.0, 0.0, []
    for value in values:
        average, weight = decay * average + (1 - decay) * value, decay * weight + (1 - decay)
        smoothed.append(average / weight)
    return smoothed
