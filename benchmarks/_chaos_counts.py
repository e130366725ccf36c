"""What the benchmark of chaos counts: pure functions of what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

Points = Sequence[tuple[str, int, float]]  # metric's name, step, value
TIMES = frozenset({"seconds"})  # of a curve: they differ from run to run, so that only their steps can be compared


@dataclass
class Attempt:
    """One start of a training: the step that it went on from, and the last one that it did."""

    resumed_from: int
    last_step: int


def redone_intervals(attempts: Sequence[Attempt], checkpoint_steps: int) -> float:
    """The most training that one restart did again, in intervals between checkpoints."""
    return max((max(0, before.last_step - after.resumed_from) / checkpoint_steps for before, after in pairwise(attempts)), default=0.0)


def lost_points(reference: Points, found: Points) -> int:
    """Points of the reference's curves that are missing or have another value, and those that are there twice or in no reference."""
    wanted, there = Counter(map(_comparable, reference)), Counter(map(_comparable, found))
    return (wanted - there).total() + (there - wanted).total()


def _comparable(point: tuple[str, int, float]) -> tuple[str, int, float]:
    name, step, value = point
    return (name, step, 0.0 if name in TIMES else value)


@dataclass(frozen=True)
class Seen:
    """A live process of the checkout, while no run is under way. `parents` are the pids above it, the nearest first."""

    pid: int
    command: str
    of_a_run: bool
    parents: tuple[int, ...] = ()


def orphans(processes: Sequence[Seen], supervisor: int) -> list[Seen]:
    """The processes that belong to nothing any more: a run's, although none is under way, and services' that supervisor does not hold."""
    return [process for process in processes if process.of_a_run or not (process.pid == supervisor or supervisor in process.parents)]


def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The benchmark's figures from its records, one a run."""
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
        # Until it works again: a step is done by what was started anew, or, where a service was hit, that answers and a step is done.
        "seconds_to_recover": _spread([record["seconds_to_recover"] for record in recovered]),
        # From the kill to the good end of a run: what was left to do anyway is part of it.
        "seconds_to_end": _spread([record["seconds_to_end"] for record in recovered]),
    }


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a run is as it must be."""
    good = record["recovered"] and record["identical"] and record["redone_intervals"] <= 1
    return bool(good) and not record["orphans"] and not record["lost_metrics"]


def _spread(seconds: Sequence[float]) -> dict[str, float | None]:
    return {"median": round(median(seconds), 1), "max": round(max(seconds), 1)} if seconds else {"median": None, "max": None}


def sentence(record: Mapping[str, Any]) -> str:
    """A run in one line of the table."""
    what = f"{record['stage']} at step {record['step']}"
    if not record["recovered"]:
        return f"{what}: NOT RECOVERED; runs {', '.join(record['states']) or 'none'}"
    wrong = [
        *([] if record["identical"] else ["DIFFERENT"]),
        *([f"{record['lost_metrics']} points lost or doubled"] if record["lost_metrics"] else []),
        *([f"{len(record['orphans'])} orphans"] if record["orphans"] else []),
    ]
    told = f"works after {record['seconds_to_recover']:.0f} s, ended after {record['seconds_to_end']:.0f} s"
    states = ", ".join(record["states"])
    return f"{what}: {told}; {record['redone_intervals']:g} intervals redone; {states}{'; ' if wrong else ''}{'; '.join(wrong)}"
