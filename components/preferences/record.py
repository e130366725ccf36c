"""The record: one query with its ranked responses. Pairs are derived, never stored as input.

- Ranks: 1 is best; equal ranks are ties. Ties never make pairs; the reward model learns from them.
- Tables are Parquet with the schema below, one row a query, nested responses, written deterministically (same rows, same bytes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.preferences.texts import visible

Category = Literal["mcq", "long", "short", "safety", "video"]
CATEGORIES: tuple[Category, ...] = ("mcq", "long", "short", "safety", "video")


@dataclass(frozen=True)
class Response:
    """One answer to a query. Scores are 1..5 or None; `rank` 1 is best."""

    text: str
    rank: int
    faithfulness: float | None = None
    helpfulness: float | None = None
    ethics: float | None = None
    critique: str | None = None
    critique_source: str | None = None


@dataclass(frozen=True)
class Query:
    """A question about an image, several frames or nothing, with its responses.

    `media` is relative to the preferences folder: an image file, or a folder of frames (`media_kind` "video").
    `media_digest` is the sha256 of the media's bytes, so that a changed image changes the table and what depends on it.
    `media_size` is (width, height, frames) in pixels of its first picture, so that nobody opens it to count tokens; validation sets both.
    `group` names the conversation or document that the query comes from: a split leaves it whole. `clusters` names what it shares with others
    (picture, wording), so that statistics resample such queries together; validation fills in what the row leaves out.
    """

    id: str
    category: Category
    prompt: str
    responses: tuple[Response, ...]
    media: str | None = None
    media_kind: Literal["image", "video"] | None = None
    media_digest: str | None = None
    media_size: tuple[int, int, int] | None = None
    reference_answer: str | None = None
    safety: Literal["harmful", "harmless"] | None = None
    source: str | None = None
    split: Literal["train", "heldout"] = "train"
    ranking_reason: str | None = None
    group: str | None = None
    clusters: dict[str, str] = field(default_factory=dict, hash=False)

    def pairs(self) -> list[tuple[int, int]]:
        """All (winner, loser) index pairs whose ranks differ, in index order (paper section 2: every rank-different pair).

        Two responses that read the same make no pair, whatever their ranks: neither can be preferred.
        """
        texts = [visible(response.text) for response in self.responses]
        ordered = []
        for a, b in combinations(range(len(self.responses)), 2):
            rank_a, rank_b = self.responses[a].rank, self.responses[b].rank
            if rank_a != rank_b and texts[a] != texts[b]:
                ordered.append((a, b) if rank_a < rank_b else (b, a))
        return ordered

    def ties(self) -> list[tuple[int, int]]:
        """All index pairs of equal rank."""
        return [(a, b) for a, b in combinations(range(len(self.responses)), 2) if self.responses[a].rank == self.responses[b].rank]


RESPONSE_TYPE = pa.struct(
    [
        ("text", pa.string()),
        ("rank", pa.int32()),
        ("faithfulness", pa.float64()),
        ("helpfulness", pa.float64()),
        ("ethics", pa.float64()),
        ("critique", pa.string()),
        ("critique_source", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("prompt", pa.string()),
        ("responses", pa.list_(RESPONSE_TYPE)),
        ("media", pa.string()),
        ("media_kind", pa.string()),
        ("media_digest", pa.string()),
        ("media_size", pa.list_(pa.int32())),
        ("reference_answer", pa.string()),
        ("safety", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("ranking_reason", pa.string()),
        ("group", pa.string()),
        ("clusters", pa.map_(pa.string(), pa.string())),
    ]
)


def write_queries(path: Path, queries: Sequence[Query]) -> None:
    """Write queries as one Parquet file, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(queries), path)


def table_of(queries: Sequence[Query]) -> pa.Table:
    """Queries as a table of the schema, a row a query."""
    rows = [vars(query) | {"responses": [vars(response) for response in query.responses]} for query in queries]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def read_queries(path: Path) -> list[Query]:
    """Read what `write_queries` wrote."""
    return [query_of_row(row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def query_of_row(row: dict[str, object]) -> Query:
    """A query from a row of the schema, as Python values."""
    responses, size, clusters = row.pop("responses"), row.pop("media_size"), row.pop("clusters")
    assert isinstance(responses, list)
    assert size is None or isinstance(size, list)
    assert clusters is None or isinstance(clusters, list)  # a map's items
    return Query(
        **row,  # type: ignore[arg-type]
        responses=tuple(Response(**item) for item in responses),
        media_size=None if size is None else tuple(size),
        clusters=dict(clusters or ()),
    )


def with_split(queries: Sequence[Query], split: Literal["train", "heldout"]) -> Iterator[Query]:
    """The same queries, marked as belonging to `split`."""
    return (replace(query, split=split) for query in queries)
