"""How a run's data differ from the champion's: rows that came and went, and properties whose distribution moved.

The queries as validation accepted them are compared, of the run and of the version with DVC's hash of them. A property's distance is the total
variation of its two distributions: the share of rows that would have to change their value. A property moved where the distance is at least
`LEAST_MOVED` and a chi-squared test of both counts rejects that they are alike at `SIGNIFICANCE`, by Bonferroni over all properties.
Lengths count by powers of two. Nothing here refuses a model: the verdict and the page show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.checkout import IN_CHECKOUT, Checkout
from components.files import digest_bytes
from components.preferences.record import Query, query_of_row
from components.registry.versions import SPLIT_DATA, Version
from components.storage.objects import bring_into_cache
from components.tracking.provenance import lock_hashes

LEAST_MOVED = 0.05
SIGNIFICANCE = 0.01
ROWS_AT_ONCE = 1024
NAMED = 3  # values that a sentence names of a property
WORDS = {"train": "training", "heldout": "held-out"}


@dataclass(frozen=True)
class Moved:
    """A property whose distribution moved: the share of rows that moved, and the values with the largest changes (before, after)."""

    name: str
    distance: float
    values: tuple[tuple[str, float, float], ...]

    def __str__(self) -> str:
        changes = ", ".join(f"{value} {before:.1%} to {after:.1%}" for value, before, after in self.values)
        return f"{self.name} ({self.distance:.1%} of the rows moved: {changes})"


@dataclass(frozen=True)
class Drift:
    """A split of the run against the version's: its queries, those that came and those that are gone, the properties that moved."""

    split: str
    version: int
    queries: int
    new: int
    lost: int
    moved: tuple[Moved, ...]

    def sentence(self) -> str:
        """The comparison in one sentence."""
        text = f"{WORDS[self.split]} data: {self.new} of {self.queries} queries are new since champion {self.version}, {self.lost} are gone"
        return f"{text}; moved: {'; '.join(map(str, self.moved))}" if self.moved else f"{text}; no property moved"

    def summary(self) -> dict[str, Any]:
        """Values for JSON."""
        moved = {item.name: round(item.distance, 4) for item in self.moved}
        return {"version": self.version, "queries": self.queries, "new": self.new, "gone": self.lost, "moved": moved}


def split_hashes(checkout: Checkout) -> dict[str, str]:
    """DVC's hashes of the validated queries of each split that dvc.lock has, by the tag that a version carries."""
    outs = lock_hashes(checkout, "validate")
    paths = {tag: IN_CHECKOUT.queries(split).parent.as_posix() for split, tag in SPLIT_DATA.items()}
    return {tag: outs[path] for tag, path in paths.items() if path in outs}


def find_drift(checkout: Checkout, champion: Version) -> tuple[list[Drift], list[str]]:
    """The splits that differ from those that `champion` was trained and judged on; and a sentence on each whose data can't be had."""
    now = split_hashes(checkout)
    drifts: list[Drift] = []
    lacking: list[str] = []
    for split, tag in SPLIT_DATA.items():
        before, path = champion.tags.get(tag), checkout.queries(split)
        if before is None or before == now.get(tag) or not path.is_file():
            continue
        files = bring_into_cache(checkout, before) or {}
        if path.name not in files:
            lacking.append(f"the {WORDS[split]} data of champion {champion.number} ({before}) are neither in DVC's cache nor in a remote")
            continue
        drifts.append(compare(split, champion.number, _read(files[path.name]), _read(path)))
    return drifts, lacking


def compare(split: str, version: int, before: Iterable[Query], after: Iterable[Query]) -> Drift:
    """Compare the queries `before` of a version with those `after`."""
    old, new = _Profile(before), _Profile(after)
    moved = []
    for name in PROPERTIES:
        counts = old.counts[name], new.counts[name]
        distance = total_variation(*counts)
        if distance >= LEAST_MOVED and _chance(*counts) < SIGNIFICANCE / len(PROPERTIES):
            moved.append(Moved(name, distance, _largest_changes(*counts)))
    moved.sort(key=lambda item: -item.distance)
    return Drift(split, version, new.keys.total(), (new.keys - old.keys).total(), (old.keys - new.keys).total(), tuple(moved))


class _Profile:
    """Counts of queries by what makes them the same, and of each property's values."""

    def __init__(self, queries: Iterable[Query]) -> None:
        self.keys: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in PROPERTIES}
        for query in queries:
            self.keys[_key(query)] += 1
            for name, values in PROPERTIES.items():
                self.counts[name].update(values(query))


def total_variation(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Half the sum of the absolute differences of both distributions' shares, from 0 (alike) to 1 (nothing in common)."""
    shares = [_shares(counts) for counts in (before, after)]
    return sum(abs(shares[0].get(value, 0) - shares[1].get(value, 0)) for value in {*before, *after}) / 2


def _chance(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """The chi-squared test's p value for both counts coming from one distribution; 0 where a side is empty and the other is not."""
    from scipy.stats import chi2_contingency

    values = sorted({*before, *after})
    if not before or not after:
        return 0.0
    if len(values) < 2:
        return 1.0
    return float(chi2_contingency([[counts.get(value, 0) for value in values] for counts in (before, after)]).pvalue)


def _largest_changes(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[tuple[str, float, float], ...]:
    old, new = _shares(before), _shares(after)
    changes = [(value, old.get(value, 0.0), new.get(value, 0.0)) for value in sorted({*before, *after})]
    return tuple(sorted(changes, key=lambda change: -abs(change[1] - change[2]))[:NAMED])


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {value: count / total for value, count in counts.items()}


def _read(path: Path) -> Iterator[Query]:
    for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE):
        yield from map(query_of_row, batch.to_pylist())


def _key(query: Query) -> str:
    """What makes a query the same, whatever its id is: turns, media and responses with their ranks."""
    media = [str(medium.digest) for medium in query.media]
    responses = sorted(f"{response.rank} {response.text}" for response in query.responses)
    return digest_bytes(*(f"{turn.role} {turn.text}" for turn in query.turns), *media, *responses)


def _length(count: int) -> str:
    """A count by powers of two: "0", "1", "2-3", "4-7"."""
    low = 1 << max(0, count.bit_length() - 1)
    return str(count) if count < 2 else f"{low}-{2 * low - 1}"


def _rank_of_longest(query: Query) -> str:
    longest = max(query.responses, key=lambda response: len(response.text), default=None)
    best = min((response.rank for response in query.responses), default=None)
    return "best" if longest is not None and longest.rank == best else "not best"


PROPERTIES: dict[str, Callable[[Query], Iterable[str]]] = {
    "category": lambda query: [query.category],
    "source": lambda query: [query.source or "not named"],
    "safety": lambda query: [query.safety or "not marked"],
    "media": lambda query: [" ".join(sorted(query.kinds)) or "none"],
    "number of turns": lambda query: [_length(len(query.turns))],
    "characters of the question": lambda query: [_length(len(query.prompt))],
    "number of responses": lambda query: [str(len(query.responses))],
    "characters of a response": lambda query: [_length(len(response.text)) for response in query.responses],
    "critique": lambda query: ["with" if response.critique else "without" for response in query.responses],
    "ties": lambda query: ["with" if query.ties() else "without"],
    "rank of the longest response": lambda query: [_rank_of_longest(query)],
}
