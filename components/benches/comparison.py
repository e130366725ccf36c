"""Two models on the same questions: paired differences with intervals, corrected for their number, what got worse first.

- A comparison is one measure of one benchmark, over all questions or over those of a category. Its interval and its p value count questions
  that share a picture or a wording together (components/statistics.py).
- `gain` is B minus A, turned round where lower is better: a negative gain is worse in every row of the result.
- Holm's correction bounds the chance of any false difference, Benjamini and Hochberg's the share of false ones among those that are named.
  Comparisons with too few clusters for a p value are no part of it.
- `detectable` is the smallest gain that so many questions show with a power of .8. "No difference" says little where it is large.
- A cluster is one observation: clusters are listed with their changes, without a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from components.statistics import POWER, Interval, Intervals

Correction = Literal["holm", "bh"]
CORRECTIONS: tuple[Correction, ...] = ("holm", "bh")
Row = Mapping[str, Any]
SHOWN_CLUSTERS = 20  # those that lost most


class Measure(NamedTuple):
    """What a column of a table says: `events` of `cases` of a row (None: not judged), and what of it is better."""

    name: str
    direction: Literal["up", "down"]
    events: Callable[[Row], float | None]
    cases: Callable[[Row], float]


def _flag(column: str) -> Callable[[Row], float | None]:
    return lambda row: None if row.get(column) is None else float(row[column])


def _one(_: Row) -> float:
    return 1.0


CORRECT = Measure("accuracy", "up", lambda row: float(row["correct"]), lambda row: float(row["pairs"]))
HELDOUT = (
    Measure("good", "up", _flag("good"), _one),
    Measure("unsafe", "down", _flag("unsafe"), _one),
    Measure("over_refused", "down", _flag("over_refused"), _one),
    Measure("hallucinated", "down", _flag("hallucinated"), _one),
    Measure("degenerate", "down", _flag("degenerate"), _one),
    Measure("preference_accuracy", "up", CORRECT.events, CORRECT.cases),
)


@dataclass(frozen=True)
class Pair:
    """One question in both tables: what each model has of `cases`, its category and its clusters."""

    category: str
    cases: float
    first: float
    second: float
    clusters: Mapping[str, str]


def pairs_of(measure: Measure, first: Sequence[Row], second: Sequence[Row]) -> list[Pair]:
    """The questions that both tables have, with equally many cases, and that both models were judged on."""
    others = {row["id"]: row for row in second}
    pairs = []
    for row in first:
        other = others.get(row["id"])
        if other is None or measure.cases(row) != measure.cases(other) or not measure.cases(row):
            continue
        a, b = measure.events(row), measure.events(other)
        if a is not None and b is not None:
            pairs.append(Pair(row["category"], measure.cases(row), a, b, row.get("clusters") or {}))
    return pairs


def compare(
    tables: Mapping[str, tuple[Sequence[Row], Sequence[Row], Sequence[Measure]]], intervals: Intervals, correction: Correction
) -> dict[str, Any]:
    """All comparisons of `tables` (benchmark to the rows of A, of B, and its measures), what got worse first."""
    entries: list[dict[str, Any]] = []
    clusters: list[dict[str, Any]] = []
    for benchmark, (first, second, measures) in tables.items():
        for measure in measures:
            pairs = pairs_of(measure, first, second)
            categories = sorted({pair.category for pair in pairs})
            for category in [None, *(categories if len(categories) > 1 else [])]:
                chosen = [pair for pair in pairs if category in {None, pair.category}]
                if chosen:
                    head = {"benchmark": benchmark, "measure": measure.name, "category": category}
                    entries.append({**head, **_entry(chosen, measure, intervals)})
            clusters += [{"benchmark": benchmark, "measure": measure.name, **entry} for entry in _clusters(pairs, measure)]
    corrected = correct([entry["p"] for entry in entries], correction)
    for entry, p in zip(entries, corrected, strict=True):
        entry["p_adjusted"] = p
        entry["significant"] = p is not None and p <= 1 - intervals.confidence
    entries.sort(key=lambda entry: (not (entry["significant"] and entry["gain"] < 0), entry["gain"]))
    clusters.sort(key=lambda entry: (entry["gain"], -entry["questions"]))
    return {
        "correction": correction,
        "confidence": intervals.confidence,
        "power": POWER,
        "worse": [entry for entry in entries if entry["significant"] and entry["gain"] < 0],
        "better": [entry for entry in entries if entry["significant"] and entry["gain"] > 0],
        "comparisons": entries,
        "clusters": [entry for entry in clusters if entry["gain"] < 0][:SHOWN_CLUSTERS],
    }


def correct(chances: Sequence[float | None], correction: Correction) -> list[float | None]:
    """The p values corrected for their number; None stays None."""
    present = [index for index, chance in enumerate(chances) if chance is not None]
    values = [float(chance) for chance in chances if chance is not None]
    adjusted = (_holm if correction == "holm" else _benjamini_hochberg)(values)
    result: list[float | None] = [None] * len(chances)
    for index, value in zip(present, adjusted, strict=True):
        result[index] = value
    return result


def _holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def _benjamini_hochberg(values: Sequence[float]) -> list[float]:
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(values, method="bh")] if values else []


def _entry(pairs: Sequence[Pair], measure: Measure, intervals: Intervals) -> dict[str, Any]:
    """Both shares, the gain of B with its interval, its p value, and what so many questions can show."""
    largest = max((abs(value) / pair.cases for pair in pairs for value in (pair.first, pair.second)), default=1.0)
    scale = max(largest, 1.0)  # of measures with other units than shares
    sign = 1 if measure.direction == "up" else -1
    changes = [sign * (pair.second - pair.first) / scale for pair in pairs]
    cases = [pair.cases for pair in pairs]
    interval = intervals.difference(changes, cases, [pair.clusters for pair in pairs])
    assert interval is not None, "a comparison has questions"
    low, high = _ends(interval, scale)
    return {
        "direction": measure.direction,
        "questions": len(pairs),
        "groups": interval.groups,
        "a": sum(pair.first for pair in pairs) / sum(cases),
        "b": sum(pair.second for pair in pairs) / sum(cases),
        "gain": interval.value * scale,
        "low": low,
        "high": high,
        "p": interval.chance,
        "detectable": None if low is None else interval.detectable(intervals.tail) * scale,
    }


def _ends(interval: Interval, scale: float) -> tuple[float | None, float | None]:
    if interval.low is None or interval.high is None:
        return None, None
    return interval.low * scale, interval.high * scale


def _clusters(pairs: Sequence[Pair], measure: Measure) -> list[dict[str, Any]]:
    """Each cluster of two questions or more, by every name of a cluster."""
    sign = 1 if measure.direction == "up" else -1
    members: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        for name, value in pair.clusters.items():
            members.setdefault((name, value), []).append(pair)
    return [
        {
            "cluster": name,
            "value": value,
            "questions": len(chosen),
            "gain": sign * sum(pair.second - pair.first for pair in chosen) / sum(pair.cases for pair in chosen),
        }
        for (name, value), chosen in members.items()
        if len(chosen) > 1
    ]
