"""The record: one query with its ranked responses. Pairs are derived, never stored as input.

- Ranks: 1 is best; equal ranks are ties. Ties never make pairs; the reward model learns from them.
- A turn holds the places of its media between its texts, so that no text stands for a picture.
- Tables are Parquet with the schema below, one row a query, nested responses, written deterministically (same rows, same bytes).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from components.preferences.texts import visible

Category = Literal["mcq", "long", "short", "safety", "video"]
CATEGORIES: tuple[Category, ...] = ("mcq", "long", "short", "safety", "video")
Kind = Literal["image", "video"]
Role = Literal["user", "assistant", "system"]


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
class Medium:
    """An image file or a folder of frames, by its path relative to the preferences folder.

    `digest` is the sha256 of its bytes, so that a changed image changes the table and what depends on it. `size` is (width, height, frames) in
    pixels of its first picture, so that nobody opens it to count tokens. Validation sets both.
    """

    path: str
    kind: Kind
    digest: str | None = None
    size: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Turn:
    """A message of a conversation: its texts, with a medium between each two of them. So ("", "What is it?") begins with a medium."""

    role: Role
    pieces: tuple[str, ...]

    @property
    def media(self) -> int:
        """The number of its media."""
        return len(self.pieces) - 1

    @property
    def leading(self) -> int:
        """The number of media before its first text."""
        return next((number for number, piece in enumerate(self.pieces) if piece), self.media)

    @property
    def text(self) -> str:
        """Its texts without the media."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Query:
    """A conversation about images, videos or nothing that ends with a user's turn, and the responses to that.

    `media` are those of all turns, in the order of their places.
    `group` names the conversation or document that the query comes from: a split leaves it whole. `clusters` names what it shares with others
    (picture, wording), so that statistics resample such queries together; validation fills in what the row leaves out.
    """

    id: str
    category: Category
    turns: tuple[Turn, ...]
    responses: tuple[Response, ...]
    media: tuple[Medium, ...] = ()
    reference_answer: str | None = None
    safety: Literal["harmful", "harmless"] | None = None
    source: str | None = None
    split: Literal["train", "heldout"] = "train"
    ranking_reason: str | None = None
    group: str | None = None
    clusters: dict[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        assert self.turns[-1].role == "user", "a query ends with a user's turn"
        assert sum(turn.media for turn in self.turns) == len(self.media), "a query has as many media as its turns have places"

    @classmethod
    def single(cls, identity: str, category: Category, prompt: str, responses: tuple[Response, ...], *media: Medium, **labels: Any) -> Self:
        """A query of one turn: its media, then its text. `labels` are the remaining fields."""
        return cls(identity, category, (Turn("user", (*[""] * len(media), prompt)),), responses, media, **labels)

    @property
    def prompt(self) -> str:
        """The text of the last user's turn, which the responses answer."""
        return self.turns[-1].text

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of each medium."""
        return tuple(medium.kind for medium in self.media)

    @property
    def is_plain(self) -> bool:
        """Whether the query is one turn that begins with its only medium, or has none."""
        return len(self.turns) == 1 and self.turns[0].leading == len(self.media) <= 1

    @property
    def content(self) -> tuple[str, ...]:
        """What a model reads of the query, for keys: its texts, and its media by kind and digest."""
        if not self.is_plain:
            return "conversation", self.as_json(lambda medium: f"{medium.kind} {medium.digest or ''}")
        return self.prompt, *((self.media[0].kind, self.media[0].digest or "") if self.media else ("", ""))

    def as_json(self, name: Callable[[Medium], str]) -> str:
        """The conversation as JSON, with a name for each medium."""
        return json.dumps([[[turn.role, *turn.pieces] for turn in self.turns], [name(medium) for medium in self.media]])

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
TURN_TYPE = pa.struct([("role", pa.string()), ("pieces", pa.list_(pa.string()))])
MEDIUM_TYPE = pa.struct([("path", pa.string()), ("kind", pa.string()), ("digest", pa.string()), ("size", pa.list_(pa.int32()))])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("turns", pa.list_(TURN_TYPE)),
        ("responses", pa.list_(RESPONSE_TYPE)),
        ("media", pa.list_(MEDIUM_TYPE)),
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
    nested = ("turns", "responses", "media")
    rows = [vars(query) | {name: [vars(item) for item in getattr(query, name)] for name in nested} for query in queries]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def read_queries(path: Path) -> list[Query]:
    """Read what `write_queries` wrote."""
    return [query_of_row(row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def query_of_row(row: dict[str, Any]) -> Query:
    """A query from a row of the schema, as Python values."""
    turns, responses, media, clusters = (row.pop(name) for name in ("turns", "responses", "media", "clusters"))
    return Query(
        **row,
        turns=tuple(Turn(turn["role"], tuple(turn["pieces"])) for turn in turns),
        responses=tuple(Response(**item) for item in responses),
        media=tuple(
            Medium(item["path"], item["kind"], item["digest"], None if item["size"] is None else tuple(item["size"])) for item in media
        ),
        clusters=dict(clusters or ()),  # a map's items
    )


def with_split(queries: Sequence[Query], split: Literal["train", "heldout"]) -> Iterator[Query]:
    """The same queries, marked as belonging to `split`."""
    return (replace(query, split=split) for query in queries)
