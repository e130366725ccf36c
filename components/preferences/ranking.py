"""Reads `final_ranking` in its supported encodings: a list of ranks, or text that orders the responses.

An unknown encoding ends the import. A guess could reverse preferences, and a refusal row by row would hide that the whole file has another
encoding.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from components.errors import UserError
from components.preferences.faults import RowError, finite_number, shorten

_ORDER = re.compile(r"(?:rank(?:ing)?\s*:?\s*)?(\[?)\s*(\d+(?:\s*[>=]\s*\d+)*)\s*(\]?)", re.IGNORECASE | re.ASCII)


# What a list of numbers means: the rank of each response, or the responses' numbers from best to worst.
Listed = Literal["ranks", "order"]


class UnknownRankingError(UserError):
    """`final_ranking` has an unknown encoding, so that no row of the file is reliable."""


def parse_ranking(value: Any, count: int, listed: Listed = "ranks") -> list[int]:
    """Ranks of `count` responses, 1 the best, equal for ties.

    A list contains one rank a response, which stay unchanged, or (`listed`) the responses' numbers, the best first. Text such as `1>2=3>4`
    orders the responses' numbers and gives dense ranks.
    Raises RowError for ranks that are no weak order of the responses, UnknownRankingError for an unknown encoding.
    """
    if value is None or value in ("", []):
        raise RowError("ranking", "final_ranking", "is missing")
    if isinstance(value, list):
        ranks = [_rank(item, value) for item in value]
        if len(ranks) != count:
            raise RowError("length", "final_ranking", f"has {len(ranks)} entries for {count} responses")
        if listed == "order":
            return order_to_ranks(ranks)
        if not _is_weak_order(ranks):
            raise RowError("ranking", "final_ranking", f"{shorten(ranks)} is no weak order: ranks start at 1, with no gap but after ties")
        return ranks
    matched = _ORDER.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None or bool(matched[1]) != bool(matched[3]):
        raise _unknown(value)
    groups = [[int(number) for number in tied.split("=")] for tied in matched[2].split(">")]
    if sorted(number for tied in groups for number in tied) != list(range(1, count + 1)):
        raise RowError("ranking", "final_ranking", f"{shorten(matched[2])} does not name each of the responses 1 to {count} once")
    rank_of = {number: rank for rank, tied in enumerate(groups, start=1) for number in tied}
    return [rank_of[number] for number in range(1, count + 1)]


def order_to_ranks(numbers: list[int]) -> list[int]:
    """The ranks of responses whose numbers (from 1) are listed from best to worst. Raises RowError for a number twice or none."""
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        reason = f"{shorten(numbers)} does not name each of the responses 1 to {len(numbers)} once (validate.ranking: order)"
        raise RowError("ranking", "final_ranking", reason)
    return [numbers.index(number) + 1 for number in range(1, len(numbers) + 1)]


def written_ranking(ranks: list[int], *, scored: bool) -> list[int] | str:
    """Ranks as `final_ranking` holds them: a list, or text where a list could be taken for an order and no score (`scored`) tells them apart."""
    if scored or sorted(ranks) != list(range(1, len(ranks) + 1)) or order_to_ranks(ranks) == ranks:
        return ranks
    return ">".join(str(number) for number in order_to_ranks(ranks))


def _rank(item: Any, value: list[Any]) -> int:
    number = finite_number(item)
    if item is not None and number is None:
        raise _unknown(value)
    if number is None or number != int(number):
        raise RowError("ranking", "final_ranking", f"holds {shorten(item)}, which is not a rank")
    return int(number)


def _is_weak_order(ranks: list[int]) -> bool:
    """Dense ranks (1, 2, 2, 3) or competition ranks (1, 2, 2, 4)."""
    dense = {rank: position for position, rank in enumerate(sorted(set(ranks)), start=1)}
    return all(rank == dense[rank] for rank in ranks) or all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


def _unknown(value: Any) -> UnknownRankingError:
    return UnknownRankingError(
        f"final_ranking {shorten(value, 120)} has an unknown encoding: write a list of ranks such as [1, 2, 2, 3],"
        " or text such as '1>2=3>4' over the responses' numbers"
    )
