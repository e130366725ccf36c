"""Training curves of the reward model and of the policy, from the runs that made them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log

from components.report.plots import Line, Plot, curves
from components.report.record import Record
from components.report.wording import number

FILE = "curves.jsonl"
POINTS = 240  # a curve; a longer one is drawn as means over neighbouring steps
SMOOTHED_FROM = 60  # points, from which on a moving average is drawn over the curve
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
        Wanted("Pairs ordered right", (("accuracy", ""),), "share", (0.5, "chance"), (0, 1)),
        Wanted("Loss on critiques", (("loss/critique", ""),), "loss a token"),
    ),
    "align": (
        Wanted("Preference loss", (("loss/preference", ""),), "loss a pair", CHANCE),
        Wanted("Pairs preferred as people do", (("rewards/accuracy", ""),), "share", (0.5, "chance"), (0, 1)),
        Wanted("Implicit rewards", (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")), "reward", (0, "base")),
    ),
}


@dataclass(frozen=True)
class TrainingCurves:
    """The plots of one stage, or the sentence that says why there are none."""

    stage: str
    title: str
    plots: list[Plot]
    missing: str | None


def training_curves(record: Record) -> list[TrainingCurves]:
    """Curves of both training stages."""
    found = []
    for stage, title in (("reward", "Reward model"), ("align", "Policy")):
        logged, missing = _fetch(record, stage)
        plots = [plot for wanted in WANTED[stage] if (plot := _plot(logged, wanted)) is not None]
        found.append(TrainingCurves(stage, title, plots, missing or (None if plots else f"Stage {stage} logged no curves.")))
    return found


def _fetch(record: Record, stage: str) -> tuple[list[dict[str, float]], str | None]:
    """The steps that a stage logged, or why they can't be had."""
    if not record.done(stage):
        return [], f"Stage {stage} did not end in this run, so there are no curves of it."
    run_id = record.run(stage).get("mlflow_run_id")
    if not isinstance(run_id, str):
        return [], f"Stage {stage} left no record of its MLflow run, so its curves can't be found."
    from components.tracking.recorder import PENDING

    if run_id.startswith(PENDING):
        return [], f"The tracking store was away while stage {stage} ran: its curves are written there by the next run."
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (record.root / "mlflow.db").is_file():
        return [], f"The tracking store (mlflow.db) is not here, so the curves of stage {stage} are left out."
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar a file is no news to who asked for a page
    from components.tracking.store import connect

    try:
        client, _ = connect(record.root)
        with open(client.download_artifacts(run_id, FILE), encoding="utf-8") as stream:  # noqa: PTH123 -- mlflow gives a text
            return [json.loads(line) for line in stream if line.strip()], None
    except Exception as error:  # noqa: BLE001 -- a store has many ways to be away, and the page is rendered without it
        return [], f"The tracking store could not give the curves of run {run_id} ({type(error).__name__}), so they are left out."


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
    return curves(lines, title=wanted.title, words=sentence, y_label=wanted.y_label, reference=wanted.reference, bounds=wanted.bounds)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points: means over runs of neighbours, so that no stretch of a long curve is dropped."""
    if len(points) <= POINTS:
        return list(points)
    bounds = [round(number * len(points) / POINTS) for number in range(POINTS + 1)]
    pieces = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(step for step, _ in piece) / len(piece), sum(value for _, value in piece) / len(piece)) for piece in pieces]


def smooth(values: Sequence[float]) -> list[float]:
    """The exponential moving average over a twentieth of the curve, without the bias towards its first value."""
    keep = 1 - 20 / max(len(values), 40)
    average, weight, smoothed = 0.0, 0.0, []
    for value in values:
        average, weight = keep * average + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(average / weight)
    return smoothed
