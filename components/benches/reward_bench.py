"""A benchmark of reward models as queries: each question with all its different answers, and the pairs that people ordered.

Rows of one id about the same prompt and media are one query, whose answers are read once. ACC counts the rows as they are: no pair is added
or left out because it follows from others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from components.benches.reward_rows import FORMATS, BenchFormat, PairRow
from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.preferences.faults import RowError
from components.preferences.importing.library import Library
from components.preferences.importing.sources import open_source, rows_of
from components.preferences.json_rows import parse_row
from components.preferences.record import Query, Response
from components.preferences.release import query_from_row
from components.validation.lengths import LengthCheck
from components.validation.media import MediaFolder, bounds_of
from components.validation.summary import default_clusters

SHOWN = 3  # refused rows in a message


class BenchPair(NamedTuple):
    """A row: its question, its category, its query, and the better and the worse answer by their positions in the query."""

    question: str
    category: str
    query: int
    better: int
    worse: int


class Refusal(NamedTuple):
    """A row that could not be used, by its number in its file."""

    row: int
    reason: str


@dataclass
class RewardBench:
    """The queries of a file, its pairs query by query, and the rows that are no part of it."""

    queries: list[Query] = field(default_factory=list)
    pairs: list[BenchPair] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def questions(self) -> list[str]:
        """The names of the questions, in the order of their first rows."""
        return list(dict.fromkeys(pair.question for pair in self.pairs))


def read_rows(path: Path, name: BenchFormat, media: Path | None) -> tuple[list[tuple[int, PairRow]], list[Refusal], Path]:
    """The rows of a file or folder with their numbers, what is wrong with the others, and the folder of the media. Raises UserError."""
    source = open_source(str(path), path, None)
    rows: list[tuple[int, PairRow]] = []
    refused: list[Refusal] = []
    for file in source.files:
        for number, raw in rows_of(file):
            try:
                if isinstance(raw, RowError):
                    raise raw
                rows.append((number, FORMATS[name](raw if isinstance(raw, dict) else parse_row(raw))))
            except RowError as fault:
                refused.append(Refusal(number, str(fault)))
    if not rows:
        why = f": row {refused[0].row}: {refused[0].reason}" if refused else ""
        raise UserError(f"{path} holds no row of {name}{why}; name another file with --data, or another format with --format")
    return rows, refused, media or source.media


class Reader:
    """Makes queries of rows. Media are copied below `library` under names by content; `lengths` refuses what the model can't read."""

    def __init__(self, checkout: Checkout, settings: Settings, media: Path, library: Path, lengths: LengthCheck) -> None:
        self._library = Library(media, library, library)
        self._media = MediaFolder(library, bounds_of(settings.validate_), checkout)
        self._lengths = lengths

    def read(self, rows: Sequence[tuple[int, PairRow]], refused: Sequence[Refusal]) -> RewardBench:
        """The benchmark of rows. Those of one id, prompt and media become one query."""
        groups: dict[tuple[object, ...], list[tuple[int, PairRow]]] = {}
        for number, row in rows:
            groups.setdefault((row.id, row.prompt, row.media), []).append((number, row))
        bench = RewardBench(refused=list(refused))
        try:
            for (identity, *_), members in groups.items():
                try:
                    self._add(bench, str(identity), members)
                except RowError as fault:
                    bench.refused += [Refusal(number, str(fault)) for number, _ in members]
        finally:
            self._media.close()
        return bench

    def _add(self, bench: RewardBench, identity: str, members: Sequence[tuple[int, PairRow]]) -> None:
        critiques: dict[str, str] = {}
        for _, row in members:
            if row.chosen == row.rejected:
                raise RowError("equal_responses", "chosen", "reads as rejected does")
            for text, reason in ((row.chosen, row.chosen_reason), (row.rejected, row.rejected_reason)):
                critiques[text] = critiques.get(text) or reason
        first, texts = members[0][1], list(critiques)
        number = len(bench.queries)
        query = replace(self._query(first, texts), id=f"{number}/{identity}")
        responses = tuple(Response(text, 1, critique=critiques[text] or None) for text in texts)
        query = replace(query, responses=responses, clusters=dict(first.clusters or {}))
        query = replace(query, clusters=default_clusters(query))
        self._lengths.check(query)
        bench.queries.append(query)
        bench.pairs += [BenchPair(row.id, row.category, number, texts.index(row.chosen), texts.index(row.rejected)) for _, row in members]

    def _query(self, row: PairRow, texts: Sequence[str]) -> Query:
        """The query of a row, by the reader of preference rows, with its media copied and examined."""
        fields: dict[str, Any] = {"id": row.id, "question": row.prompt, "models_output": list(texts), "final_ranking": [1] * len(texts)}
        for medium in row.media:
            fields.setdefault(medium.kind, []).append(self._library.store(medium, medium.kind))
        query = query_from_row(fields, "heldout")
        seen = [self._media.examine(medium.path, medium.kind) for medium in query.media]
        media = (replace(m, digest=s.digest, size=(s.width, s.height, s.frames)) for m, s in zip(query.media, seen, strict=True))
        return replace(query, media=tuple(media))


def require_rows(bench: RewardBench, path: Path) -> None:
    """Raises UserError, with the first reasons, where no row of a file can be used."""
    if not bench.pairs:
        reasons = "; ".join(f"row {refusal.row}: {refusal.reason}" for refusal in bench.refused[:SHOWN])
        raise UserError(f"no row of {path} can be used: {reasons}; name the media's folder with --media")
