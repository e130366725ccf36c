"""What the checks of a whole file need of an accepted row: keys and counts in place of texts, so that a file's summaries fit in memory.

Summaries are columns of a table: `SUMMARY` has a column a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from components.files import digest_bytes
from components.preferences.record import Query
from components.preferences.texts import visible, wording
from components.validation.agreement import read_as_order, scored_pairs
from components.validation.personal import personal_data


class Summary(NamedTuple):
    """An accepted row. `pictures` are the digests of its media, and `fingerprints` say how they look (components/validation/perceptual.py);
    `answers` is a digest of its responses' texts in sorted order, and `ranks` are their ranks in that order.

    `list_doubtful`: final_ranking is a list that means something else as an order of the responses, and `contradicting_as_order` counts the
    pairs that contradict the scores then. `list_ties`: it is a list with ties, which no order can have.
    """

    line: int
    id: str
    category: str
    content: str
    wording: str
    pictures: list[str]
    fingerprints: list[bytes]
    group: str | None
    answers: str
    ranks: list[int]
    responses: int
    pairs: int
    equal_texts: int
    scored: int
    contradicting: int
    list_doubtful: bool
    list_ties: bool
    contradicting_as_order: int
    personal: list[str]
    tokens: int


SUMMARY = pa.schema(
    [
        ("line", pa.int64()),
        ("id", pa.string()),
        ("category", pa.string()),
        ("content", pa.string()),
        ("wording", pa.string()),
        ("pictures", pa.list_(pa.string())),
        ("fingerprints", pa.list_(pa.binary())),
        ("group", pa.string()),
        ("answers", pa.string()),
        ("ranks", pa.list_(pa.int32())),
        *((name, pa.int32()) for name in ("responses", "pairs", "equal_texts", "scored", "contradicting")),
        ("list_doubtful", pa.bool_()),
        ("list_ties", pa.bool_()),
        ("contradicting_as_order", pa.int32()),
        ("personal", pa.list_(pa.string())),
        ("tokens", pa.int32()),
    ]
)


def summarize(query: Query, row: dict[str, Any], line: int, tokens: int, fingerprints: list[bytes]) -> Summary:
    """The summary of a query that was read from `row`; `tokens` of its longest branch, `fingerprints` of its media."""
    responses = query.responses
    ranks = [response.rank for response in responses]
    texts = [visible(response.text) for response in responses]
    in_order = sorted(range(len(texts)), key=lambda index: (texts[index], ranks[index]))
    pairs = len(query.pairs())
    scored, contradicting = scored_pairs(responses, ranks)
    is_list = isinstance(row.get("final_ranking"), list)
    order = read_as_order(ranks) if is_list else None
    doubtful = order is not None and order != ranks
    unequal = len(ranks) * (len(ranks) - 1) // 2 - len(query.ties())
    return Summary(
        line=line,
        id=query.id,
        category=query.category,
        content=content_key(query),
        wording=query.clusters["wording"],
        pictures=pictures_of(query),
        fingerprints=fingerprints,
        group=query.group,
        answers=digest_bytes(*(texts[index] for index in in_order)),
        ranks=[ranks[index] for index in in_order],
        responses=len(responses),
        pairs=pairs,
        equal_texts=unequal - pairs,
        scored=scored,
        contradicting=contradicting,
        list_doubtful=doubtful,
        list_ties=is_list and len(set(ranks)) < len(ranks),
        contradicting_as_order=scored_pairs(responses, order)[1] if doubtful and order is not None else 0,
        personal=sorted(set().union(*map(personal_data, _texts(query)))),
        tokens=tokens,
    )


def content_key(query: Query) -> str:
    """Media and texts as one key, without the texts' white space and case: queries with one key must stay in one split."""
    return digest_bytes(" ".join(pictures_of(query)), wording_of(query))


def wording_of(query: Query) -> str:
    """The wording of all turns."""
    return wording(" ".join(turn.text for turn in query.turns))


def pictures_of(query: Query) -> list[str]:
    """The digests of a query's media."""
    return [medium.digest for medium in query.media if medium.digest is not None]


def default_clusters(query: Query) -> dict[str, str]:
    """The row's own clusters, and where it names none its medium as `picture` and its normalised question as `wording`."""
    pictures = pictures_of(query)
    made = {"wording": wording_of(query)} | (
        {"picture": pictures[0] if len(pictures) == 1 else digest_bytes(*pictures)} if pictures else {}
    )
    return dict(sorted((made | query.clusters).items()))


def summary_table(summaries: Sequence[Summary]) -> pa.Table:
    """Summaries as a table."""
    columns = list(zip(*summaries, strict=True)) or [()] * len(SUMMARY)
    return pa.Table.from_arrays([pa.array(column, field.type) for column, field in zip(columns, SUMMARY, strict=True)], schema=SUMMARY)


def read_summaries(table: pa.Table) -> Iterable[Summary]:
    """The summaries of a table."""
    return map(Summary._make, zip(*(column.to_pylist() for column in table.columns), strict=True))


def _texts(query: Query) -> list[str]:
    texts = [*(turn.text for turn in query.turns), query.reference_answer, query.ranking_reason]
    texts += [text for response in query.responses for text in (response.text, response.critique)]
    return [text for text in texts if text]
