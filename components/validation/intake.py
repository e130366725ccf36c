"""One file of rows to accepted queries and refusals: the outcomes of its blocks together, and what only rows together show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from components.preferences.faults import RowError, shorten
from components.preferences.ranking import Listed, UnknownRankingError
from components.preferences.record import Query, query_of_row
from components.validation.agreement import decide_listed
from components.validation.blocks import query_columns, summary_columns
from components.validation.quarantine import Refusal
from components.validation.reader import Reader
from components.validation.repeats import refuse_repeats
from components.validation.rows import Split
from components.validation.summary import Summary, read_summaries


@dataclass
class Intake:
    """A file's result: accepted rows in its order, refusals, the number of rows, and the counts of unread fields.

    `tables` have the queries of all rows that were accepted alone, and `positions` those rows of them that `summaries` are of.
    """

    file: str
    summaries: list[Summary] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    rows: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    listed: Listed = "ranks"
    tables: list[pa.Table] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def queries(self) -> list[Query]:
        """The accepted queries."""
        if not self.tables:
            return []
        return [query_of_row(row) for row in pa.concat_tables(self.tables).take(self.positions).to_pylist()]

    def refuse(self, faults: dict[int, RowError]) -> None:
        """Refuse accepted rows, by their position in `summaries`."""
        self.refusals += [Refusal.of(self.file, self.summaries[position].line, fault) for position, fault in sorted(faults.items())]
        retained = [position for position in range(len(self.summaries)) if position not in faults]
        self.summaries = [self.summaries[position] for position in retained]
        self.positions = [self.positions[position] for position in retained]


@dataclass(frozen=True)
class HeldoutContent:
    """The held-out ids and contents (media with prompt), which training rows must not repeat."""

    ids: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()

    @staticmethod
    def of(rows: Sequence[Summary]) -> HeldoutContent:
        """Those of held-out rows."""
        return HeldoutContent(frozenset(row.id for row in rows), frozenset(row.content for row in rows))


def read_file(reader: Reader, path: Path, file: str, split: Split, heldout: HeldoutContent) -> Intake:
    """Read a file by the settings of `reader`, with lists in final_ranking as `validate.ranking` says, or as the scores of its rows do.

    Raises UnknownRankingError with file and line, and UserError where nothing tells what the lists mean: both concern every row.
    """
    limits = reader.checks.limits
    intake = _read(reader, path, file, split, "order" if limits.ranking == "order" else "ranks")
    if limits.ranking == "auto" and decide_listed(file, intake.summaries, limits.max_contradictions) == "order":
        intake = _read(reader, path, file, split, "order")
    intake.refuse(_refuse_known(intake.summaries, heldout))
    intake.refuse(refuse_repeats(intake.summaries))
    return intake


def _read(reader: Reader, path: Path, file: str, split: Split, listed: Listed) -> Intake:
    intake = Intake(file, listed=listed)
    for block, outcome in reader.read(path, split, listed):
        if outcome.ranking is not None:
            line, message = outcome.ranking
            raise UnknownRankingError(f"{file} line {block.first + line}: {message}")
        intake.rows += len(block.rows)
        intake.refusals += [
            Refusal.of(file, block.first + fault.line, RowError(fault.kind, fault.field, fault.reason)) for fault in outcome.faults
        ]
        intake.summaries += [row._replace(line=block.first + row.line) for row in read_summaries(summary_columns(outcome.table))]
        intake.tables.append(query_columns(outcome.table))
        intake.unread.update(outcome.unread)
    intake.positions = list(range(len(intake.summaries)))
    return intake


def _refuse_known(rows: Sequence[Summary], heldout: HeldoutContent) -> dict[int, RowError]:
    """Rows whose id stands above, and rows that are held out, by position."""
    faults: dict[int, RowError] = {}
    line_of: dict[str, int] = {}
    for position, row in enumerate(rows):
        if row.id in line_of:
            faults[position] = RowError("duplicate_id", "id", f"{shorten(row.id)} stands already in line {line_of[row.id]}")
        elif row.id in heldout.ids:
            faults[position] = RowError("split_overlap", "id", f"{shorten(row.id)} stands in the held-out file too")
        elif row.content in heldout.contents:
            faults[position] = RowError("leak", "question", "the same media and prompt stand in the held-out file too")
        else:
            line_of[row.id] = row.line
    return faults
