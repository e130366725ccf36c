"""Rows of a file that ask the same about the same media and have the same answers.

A row that repeats another with the same ranks is used once: the first stays. Two rows contradict each other where an answer is above another
in one and below it in the other: nobody can say which is right, so that both are refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from components.preferences.faults import RowError, shorten
from components.validation.summary import Summary


def refuse_repeats(rows: Sequence[Summary]) -> dict[int, RowError]:
    """The faults of rows, by their position in `rows`."""
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        groups[row.content, row.answers].append(position)
    faults: dict[int, RowError] = {}
    for positions in groups.values():
        if len(positions) > 1:
            faults |= _contradictions(rows, positions)
            faults |= _repetitions(rows, [position for position in positions if position not in faults])
    return faults


def _contradictions(rows: Sequence[Summary], positions: Sequence[int]) -> dict[int, RowError]:
    faults: dict[int, RowError] = {}
    for a, b in combinations(positions, 2):
        if _contradict(rows[a].ranks, rows[b].ranks):
            for one, other in ((a, b), (b, a)):
                reason = f"contradicts line {rows[other].line}, {shorten(rows[other].id)}: same media, question and answers, another order"
                faults.setdefault(one, RowError("contradiction", "final_ranking", reason))
    return faults


def _repetitions(rows: Sequence[Summary], positions: Sequence[int]) -> dict[int, RowError]:
    faults: dict[int, RowError] = {}
    first: dict[tuple[int, ...], Summary] = {}
    for position in positions:
        row = rows[position]
        earlier = first.setdefault(tuple(row.ranks), row)
        if earlier is not row:
            faults[position] = RowError("repeated", "", f"repeats line {earlier.line}, {shorten(earlier.id)}, under a new id")
    return faults


def _contradict(ranks: Sequence[int], others: Sequence[int]) -> bool:
    pairs = combinations(range(len(ranks)), 2)
    return any((ranks[a] - ranks[b]) * (others[a] - others[b]) < 0 for a, b in pairs)
