"""Splits a held-out part off data that come without one."""

from __future__ import annotations

from collections.abc import Sequence

from components.errors import UserError
from components.preferences.record import Query, with_split
from components.validation.intake import content_key


def split_off(queries: Sequence[Query], share: float, file: str) -> tuple[list[Query], list[Query]]:
    """Training and held-out queries, each in the input's order; about `share` of them held out.

    Queries with the same media and prompt go to one side. The side depends only on the content, so new rows move no old ones. If a side would be
    empty, it gets the group nearest to it. Raises UserError when there is only one group.
    """
    keys = [content_key(query) for query in queries]
    groups = sorted(set(keys))
    if len(groups) < 2:
        raise UserError(f"{file} holds no two different queries, so none can be held out: add rows, or a heldout.jsonl beside it")
    heldout = {key for key in groups if int(key[:16], 16) < share * 2**64} or {groups[0]}
    if len(heldout) == len(groups):
        heldout.remove(groups[-1])
    train = [query for query, key in zip(queries, keys, strict=True) if key not in heldout]
    rest = [query for query, key in zip(queries, keys, strict=True) if key in heldout]
    return list(with_split(train, "train")), list(with_split(rest, "heldout"))
