"""The metrics of the chaos benchmark: pure functions of its observations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

Points = Sequence[tuple[str, int, float]]  # metric's name, step, value
TIMES = frozenset({"seconds"})  # curves whose values differ from run to run, so that only their steps are compared


@dataclass
class Attempt:
    """One start of a training: the step from which it resumed, and its last step."""

    resumed_from: int
    last_step: int


def redone_intervals(attempts: Sequence[Attempt], checkpoint_steps: int) -> float:
    """The most training that one restart repeated, in intervals between checkpoints."""
    return max((max(0, before.last_step - after.resumed_from) / checkpoint_steps for before, after in pairwise(attempts)), default=0.0)


def lost_points(reference: Points, points: Points) -> int:
    """How many points of the reference are missing or have another value, plus how many points are doubled or not in the reference."""
    wanted, actual = Counter(map(_comparable, reference)), Counter(map(_comparable, points))
    return (wanted - actual).total() + (actual - wanted).total()


def _comparable(point: tuple[str, int, float]) -> tuple[str, int, float]:
    name, step, value = point
    return (name, step, 0.0 if name in TIMES else value)


@dataclass(frozen=True)
class Seen:
    """A live process of the checkout, seen between runs. `parents` are the pids above it, the nearest first."""

    pid: int
    command: str
    of_a_run: bool
    parents: tuple[int, ...] = ()


def orphans(processes: Sequence[Seen], supervisor: int) -> list[Seen]:
    """The orphans: processes of a run, since no run is active, and services outside the process tree of supervisord."""
    return [process for process in processes if process.of_a_run or not (process.pid == supervisor or supervisor in process.parents)]


def metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The benchmark's metrics from its records, one a run."""
    recovered = [record for record in records if record["recovered"]]
    saves = [record for record in records if record["in_a_save"]]
    return {
        "runs": len(records),
        "identical": sum(record["identical"] for record in records),
        "recovered_alone": len(recovered),
        "max_redone_intervals": max((record["redone_intervals"] for record in records), default=0.0),
        "partial_saves": len(saves),
        "partial_saves_survived": sum(record["identical"] for record in saves),
        "orphans": sum(len(record["orphans"]) for record in records),
        "lost_metrics": sum(record["lost_metrics"] for record in records),
        # From the kill to the next step of a restarted training; if the target was a service, to its first answer and the next step.
        "seconds_to_recover": _spread([record["seconds_to_recover"] for record in recovered]),
        # From the kill to the end of a completed run: this includes the run's remaining work.
        "seconds_to_end": _spread([record["seconds_to_end"] for record in recovered]),
    }


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a run recovered with an identical result, without orphans and without lost points."""
    good = record["recovered"] and record["identical"] and record["redone_intervals"] <= 1
    return bool(good) and not record["orphans"] and not record["lost_metrics"]


def _spread(seconds: Sequence[float]) -> dict[str, float | None]:
    return {"median": round(median(seconds), 1), "max": round(max(seconds), 1)} if seconds else {"median": None, "max": None}


def sentence(record: Mapping[str, Any]) -> str:
    """One line of the table about a run."""
    what = f"{record['stage']} at step {record['step']}"
    if not record["recovered"]:
        return f"{what}: NOT RECOVERED; runs {', '.join(record['states']) or 'none'}"
    wrong = [
        *([] if record["identical"] else ["DIFFERENT"]),
        *([f"{record['lost_metrics']} points lost or doubled"] if record["lost_metrics"] else []),
        *([f"{len(record['orphans'])} orphans"] if record["orphans"] else []),
    ]
    timing = f"works after {record['seconds_to_recover']:.0f} s, ended after {record['seconds_to_end']:.0f} s"
    states = ", ".join(record["states"])
    return f"{what}: {timing}; {record['redone_intervals']:g} intervals redone; {states}{'; ' if wrong else ''}{'; '.join(wrong)}"
