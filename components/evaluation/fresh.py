"""The fresh part of the held-out queries (`evaluate.fresh_share`): no metric, page or table but artifacts/evaluate/fresh has its results.

The gate opens it once all rules hold on the other held-out queries. Queries that share a medium, a `picture` of their clusters, or a group stay
together. The side follows from a hash of what ties them, so that new rows move no old ones; it is another hash than that of validation's split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.errors import UserError
from components.files import digest_bytes
from components.preferences.record import Query
from components.validation.splitting import one_side, tied_together
from components.validation.summary import wording_of

FRESH = "fresh"


def split_fresh(queries: Sequence[Query], share: float) -> tuple[list[int], list[int]]:
    """The positions of the queries that every metric is of, and of those that the gate opens last, both in order.

    Raises UserError where all queries are tied together.
    """
    if not share:
        return list(range(len(queries))), []
    tied = tied_together([_ties(query) for query in queries])
    if len(tied) < 2:
        raise UserError(
            f"evaluate.fresh_share is {share:g}, but all held-out rows share a medium or a group: add held-out rows, or set it to 0"
        )
    fresh = one_side(tied, share)
    return [index for index in range(len(queries)) if index not in fresh], sorted(fresh)


def tables_of(table: Path, queries: Sequence[Query], share: float) -> list[tuple[Path, list[int]]]:
    """The tables of the parts, the fresh one only where it has queries, with the positions of the queries that each is of."""
    rest, fresh = split_fresh(queries, share)
    return [(table, rest), *([(fresh_of(table), fresh)] if fresh else [])]


def fresh_of(table: Path) -> Path:
    """The table of the fresh part that belongs to a model's table of results: artifacts/evaluate/fresh for artifacts/evaluate/results."""
    return table.parent.parent / FRESH / table.name


def _ties(query: Query) -> list[str]:
    named = [query.clusters["picture"]] if "picture" in query.clusters else []
    media = [medium.digest or medium.path for medium in query.media]
    groups = [query.group] if query.group is not None else []
    ties = [digest_bytes(FRESH, kind, value) for kind, values in (("picture", [*named, *media]), ("group", groups)) for value in values]
    return ties or [digest_bytes(FRESH, "wording", wording_of(query))]
