"""Splits a held-out part off data that come without one: no picture and no group on both sides.

- Rows are tied if they share a medium, a group, or media and question. What is tied, through others too, goes to one side.
- The side follows from the hash of what is tied, so that new rows and new ids move no old rows. Where so few sets of rows leave the share of
  held-out rows far from the one wanted, the sets are taken in the order of their hashes until the share is reached.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from components.errors import UserError
from components.files import digest_bytes
from components.validation.summary import Summary

TOLERANCE = 0.25  # of the share wanted: within it the share may vary by chance

log = logging.getLogger(__name__)


def split_off(rows: Sequence[Summary], share: float, file: str) -> set[int]:
    """The positions of the rows that are held out, about `share` of them.

    Raises UserError if all rows are tied together. Logs the share where it is far from the one wanted.
    """
    tied = tied_rows(rows)
    if len(tied) < 2:
        why = "all rows share a medium or a group" if len({row.content for row in rows}) > 1 else "it holds no two different queries"
        raise UserError(f"{file}: none of the rows can be held out, since {why}: add rows, or a heldout.jsonl beside it")
    positions = one_side(tied, share)
    if not _near(len(positions), share * len(rows)):
        log.warning(
            "%s: %d of %d rows are held out (%.1f %%) and not validate.heldout_share %.1f %%, since rows of one medium or group stay together",
            *(file, len(positions), len(rows), 100 * len(positions) / len(rows), 100 * share),
        )
    return positions


def tied_rows(rows: Sequence[Summary]) -> dict[str, list[int]]:
    """Positions of rows that must stay on one side, as `tied_together`."""
    return tied_together([ties_of(row) for row in rows])


def one_side(tied: Mapping[str, Sequence[int]], share: float) -> set[int]:
    """The positions on one side, about `share` of all, of two sets or more that `tied_together` made; never all."""
    wanted = share * sum(map(len, tied.values()))
    small = [key for key in sorted(tied) if len(tied[key]) <= max(1.0, wanted * (1 + TOLERANCE))]
    chosen = [key for key in small if int(key[:16], 16) < share * 2**64]
    if not _near(sum(len(tied[key]) for key in chosen), wanted):
        chosen = _nearest(small or [min(tied, key=lambda key: len(tied[key]))], tied, wanted)
    if len(chosen) == len(tied):
        chosen.pop()
    return {position for key in chosen for position in tied[key]}


def tied_together(ties: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Positions of rows that must stay on one side, by the smallest hash of what ties them; `ties` has a row's hashes, of 64 hex digits."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = parent[above]
            key = above
        return key

    for first, *others in ties:
        for other in others:
            a, b = sorted((root(first), root(other)))
            parent[b] = a
    sets: dict[str, list[int]] = {}
    for position, (first, *_) in enumerate(ties):
        sets.setdefault(root(first), []).append(position)
    return sets


def ties_of(row: Summary) -> list[str]:
    """Hashes of what a row must not share with the other side: its media, its group, and its question where it has no medium."""
    ties = [digest_bytes("picture", picture) for picture in row.pictures] or [digest_bytes("content", row.content)]
    return [*ties, digest_bytes("group", row.group)] if row.group is not None else ties


def _nearest(keys: Sequence[str], tied: Mapping[str, Sequence[int]], wanted: float) -> list[str]:
    """The first keys, as many as bring the number of rows nearest to the one wanted; at least one."""
    taken, count = [keys[0]], len(tied[keys[0]])
    for key in keys[1:]:
        if abs(count + len(tied[key]) - wanted) > abs(count - wanted):
            continue
        taken.append(key)
        count += len(tied[key])
    return taken


def _near(count: int, wanted: float) -> bool:
    return abs(count - wanted) <= TOLERANCE * wanted
