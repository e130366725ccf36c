"""Pairs of one prompt become queries with a weak order of their answers.

- Answers that no chain of pairs connects stay apart: each part is a query of its own.
- A part whose pairs are all pairs of one ranking is that ranking; two answers without a pair then tie (the release leaves ties out).
- A part whose pairs follow from one another (a > b, b > c without a > c) is the ranking that they determine; the missing pairs are counted.
- A part that determines no single ranking (a > b, a > c, d > b) becomes a query a pair, so that nothing is made up.
- A part with two pairs that contradict each other, or with a circle, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_ANSWERS = 512  # of one prompt; more are left out, since their pairs grow as the square


class PlacedPair(NamedTuple):
    """One pair, and the position of its row among all rows."""

    position: int
    chosen: str
    rejected: str
    chosen_reason: str = ""
    rejected_reason: str = ""


@dataclass(frozen=True)
class Order:
    """One query's answers with ranks (1 = best, gaps after ties) and reasons, in the order in which they first appear."""

    texts: tuple[str, ...]
    ranks: tuple[int, ...]
    reasons: tuple[str, ...]


@dataclass
class Grouped:
    """The queries of a prompt; findings are (kind, position of the row that shows it, how many)."""

    orders: list[Order] = field(default_factory=list)
    findings: list[tuple[str, int, int]] = field(default_factory=list)


def group(pairs: Sequence[PlacedPair]) -> Grouped:
    """The queries of all pairs of one prompt."""
    grouped = Grouped()
    reasons: dict[str, str] = {}
    edges: dict[tuple[str, str], int] = {}
    for pair in pairs:
        if edges.setdefault((pair.chosen, pair.rejected), pair.position) != pair.position:
            grouped.findings.append(("repeated_pair", pair.position, 1))
        for text, reason in ((pair.chosen, pair.chosen_reason), (pair.rejected, pair.rejected_reason)):
            first = reasons.get(text)
            if not first:
                reasons[text] = reason
            elif reason and reason != first:
                grouped.findings.append(("second_reason", pair.position, 1))
    for part in _parts(edges):
        _rank(part, reasons, grouped)
    return grouped


def _parts(edges: dict[tuple[str, str], int]) -> list[dict[tuple[str, str], int]]:
    """The edges by connected part, parts and edges in the order of their first rows."""
    leader: dict[str, str] = {}

    def find(text: str) -> str:
        while leader.setdefault(text, text) != text:
            leader[text] = leader[leader[text]]
            text = leader[text]
        return text

    for better, worse in edges:
        leader[find(worse)] = find(better)
    parts: dict[str, dict[tuple[str, str], int]] = {}
    for edge, position in edges.items():
        parts.setdefault(find(edge[0]), {})[edge] = position
    return list(parts.values())


def _rank(edges: dict[tuple[str, str], int], reasons: dict[str, str], grouped: Grouped) -> None:
    first = min(edges.values())
    for (better, worse), position in edges.items():
        if edges.get((worse, better), position) < position:
            grouped.findings.append(("contradiction", position, 1))
            return
    texts = list(dict.fromkeys(text for edge in edges for text in edge))
    if len(texts) > MOST_ANSWERS:
        grouped.findings.append(("too_many_answers", first, 1))
        return
    above = _above(texts, edges)
    if above is None:
        grouped.findings.append(("cycle", first, 1))
        return
    ranks = [1 + beaten_by.bit_count() for beaten_by in above]
    pairs = sum(beaten_by.bit_count() for beaten_by in above)
    if pairs == sum(one < other for one in ranks for other in ranks):
        if pairs > len(edges):
            grouped.findings.append(("missing_pair", first, pairs - len(edges)))
        grouped.orders.append(Order(tuple(texts), tuple(ranks), tuple(reasons[text] for text in texts)))
        return
    grouped.findings.append(("no_single_ranking", first, len(edges)))
    grouped.orders.extend(Order(edge, (1, 2), (reasons[edge[0]], reasons[edge[1]])) for edge in edges)


def _above(texts: list[str], edges: dict[tuple[str, str], int]) -> list[int] | None:
    """For each answer the set (as bits) of those that beat it, directly or through others; None where answers beat themselves."""
    index = {text: number for number, text in enumerate(texts)}
    losers: list[list[int]] = [[] for _ in texts]
    waiting = [0] * len(texts)
    for better, worse in edges:
        losers[index[better]].append(index[worse])
        waiting[index[worse]] += 1
    above, ready, finished = [0] * len(texts), [number for number, count in enumerate(waiting) if not count], 0
    while ready:
        winner = ready.pop()
        finished += 1
        for loser in losers[winner]:
            above[loser] |= above[winner] | 1 << winner
            waiting[loser] -= 1
            if not waiting[loser]:
                ready.append(loser)
    return above if finished == len(texts) else None
